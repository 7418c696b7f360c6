/** What many runs come to: medians, as one run in five is always disturbed by something. */

/** The middle value, or the mean of the two in the middle. Throws RangeError without values. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const upper = sorted[sorted.length >> 1];
  if (upper === undefined) throw new RangeError('median of nothing');
  const lower = sorted.length % 2 === 1 ? upper : (sorted[(sorted.length >> 1) - 1] as number);
  return (lower + upper) / 2;
}

/** How far the runs lie apart: largest less smallest, as a share of the median. */
export function spread(values: readonly number[]): number {
  const middle = median(values);
  return middle === 0 ? 0 : (Math.max(...values) - Math.min(...values)) / middle;
}

/** The same things with another one first, `by` places on, so that each goes first in its turn. */
export function rotate<T>(things: readonly T[], by: number): T[] {
  const start = things.length === 0 ? 0 : by % things.length;
  return [...things.slice(start), ...things.slice(0, start)];
}

/** Growth that is no growth: what a garbage collector moves between two looks. */
const flatShare = 0.05;
const flatMegabytes = 4;
/** With fewer samples nothing can be said. */
const flatSamples = 8;

export type Flatness = 'flat' | 'grows' | 'too few samples';

/**
 * Whether memory has stopped growing: the median of the last quarter of the samples against that of
 * the second quarter. The first quarter is the time in which buffers and code become resident.
 */
export function flatness(megabytes: readonly number[]): Flatness {
  if (megabytes.length < flatSamples) return 'too few samples';
  const quarter = Math.floor(megabytes.length / 4);
  const early = median(megabytes.slice(quarter, 2 * quarter));
  const late = median(megabytes.slice(-quarter));
  return late - early <= Math.max(flatMegabytes, flatShare * early) ? 'flat' : 'grows';
}
