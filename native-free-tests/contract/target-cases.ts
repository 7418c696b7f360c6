/** How each target is made for the suite, and what may be expected of it. */

export interface TargetCase {
  readonly target: string;
  /** What is special about this case. */
  readonly title: string;
  readonly lengthSectors: number;
  /** Sizes of its backings. */
  readonly backingSectors: readonly number[];
  /** The words behind its name, with the words of its backings in their places. */
  readonly args: (words: readonly string[]) => readonly string[];
  /** Ranges of the backings that it may change: backing, first sector, sectors. */
  readonly owns: readonly (readonly [number, number, number])[];
  /** What becomes of data: it is kept, reads are zeroes, or all I/O fails. */
  readonly keeps: 'data' | 'zeroes' | 'nothing';
  /** How deep its data is before it is written, over backings that have all of it... */
  readonly depth: number;
  /** ...and what is written, with the unit in which that shows, in bytes. */
  readonly writtenDepth: number;
  readonly depthUnit: number;
}

/** All of it is there from the start, in the lowest layer. */
const flat = { depth: 1, writtenDepth: 1, depthUnit: 1 };
const nowhere = { depth: 0, writtenDepth: 0, depthUnit: 1 };
/** What is not in its own chunks is in the layer beneath. */
const layered = (chunkSectors: number) => ({
  depth: 2,
  writtenDepth: 1,
  depthUnit: chunkSectors * 512,
});

const lengthSectors = 480;
/**
 * Where the suite puts a target in its device: not 0, so that a target that forgets where it begins
 * shows. Snapshots and origins have their data at that place of their backings.
 */
export const beginSectors = 1024;
const originEnd = beginSectors + lengthSectors;
/** Room for all chunks in any COW, and its metadata. */
const cowSectors = 1024;

export const targetCases: readonly TargetCase[] = [
  {
    target: 'linear',
    title: 'from sector 0',
    lengthSectors,
    backingSectors: [lengthSectors],
    args: ([a]) => [`${a}`, '0'],
    owns: [[0, 0, lengthSectors]],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'linear',
    title: 'in the middle of a backing',
    lengthSectors,
    backingSectors: [lengthSectors + 100],
    args: ([a]) => [`${a}`, '37'],
    owns: [[0, 37, lengthSectors]],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'striped',
    title: 'two stripes, chunks of 8 sectors',
    lengthSectors,
    backingSectors: [300, 300],
    args: ([a, b]) => ['2', '8', `${a}`, '10', `${b}`, '60'],
    owns: [
      [0, 10, 240],
      [1, 60, 240],
    ],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'striped',
    title: 'three stripes, chunks of 5 sectors, one backing twice',
    lengthSectors,
    backingSectors: [400, 200],
    args: ([a, b]) => ['3', '5', `${a}`, '1', `${b}`, '0', `${a}`, '200'],
    owns: [
      [0, 1, 160],
      [0, 200, 160],
      [1, 0, 160],
    ],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'zero',
    title: 'no arguments',
    lengthSectors,
    backingSectors: [],
    args: () => [],
    owns: [],
    keeps: 'zeroes',
    ...nowhere,
  },
  {
    target: 'error',
    title: 'no arguments',
    lengthSectors,
    backingSectors: [],
    args: () => [],
    owns: [],
    keeps: 'nothing',
    ...nowhere,
  },
  {
    target: 'error',
    title: 'with a device',
    lengthSectors,
    backingSectors: [600],
    args: ([a]) => [`${a}`, '8'],
    owns: [],
    keeps: 'nothing',
    ...nowhere,
  },
  {
    target: 'delay',
    title: 'no delay',
    lengthSectors,
    backingSectors: [500],
    args: ([a]) => [`${a}`, '20', '0'],
    owns: [[0, 20, lengthSectors]],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'delay',
    title: 'reads 1 ms, writes 2 ms, flushes 3 ms',
    lengthSectors,
    backingSectors: [500],
    args: ([a]) => [`${a}`, '20', '1', `${a}`, '20', '2', `${a}`, '20', '3'],
    owns: [[0, 20, lengthSectors]],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'flakey',
    title: 'up',
    lengthSectors,
    backingSectors: [500],
    args: ([a]) => [`${a}`, '20', '1000000', '1'],
    owns: [[0, 20, lengthSectors]],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'flakey',
    title: 'down, failing',
    lengthSectors,
    backingSectors: [500],
    args: ([a]) => [`${a}`, '20', '0', '1'],
    owns: [],
    keeps: 'nothing',
    ...flat,
  },
  {
    target: 'flakey',
    title: 'down, corrupting a byte that no request has',
    lengthSectors,
    backingSectors: [500],
    args: ([a]) => [`${a}`, '20', '0', '1', '5', 'corrupt_bio_byte', '4000000', 'r', '1', '0'],
    owns: [[0, 20, lengthSectors]],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'memory',
    title: 'with a short last page',
    lengthSectors,
    backingSectors: [],
    args: () => [],
    owns: [],
    keeps: 'data',
    depth: 0,
    writtenDepth: 1,
    depthUnit: 65_536,
  },
  {
    target: 'snapshot-origin',
    title: 'without snapshots',
    lengthSectors,
    backingSectors: [originEnd + 100],
    args: ([a]) => [`${a}`],
    owns: [[0, beginSectors, lengthSectors]],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'snapshot',
    title: 'persistent, chunks of 8 sectors',
    lengthSectors,
    backingSectors: [originEnd, cowSectors],
    args: ([a, b]) => [`${a}`, `${b}`, 'P', '8'],
    owns: [[1, 0, cowSectors]],
    keeps: 'data',
    ...layered(8),
  },
  {
    target: 'snapshot',
    title: 'persistent, the default chunk, a user who knows of overflow',
    lengthSectors,
    backingSectors: [originEnd + 5, cowSectors],
    args: ([a, b]) => [`${a}`, `${b}`, 'PO', '0'],
    owns: [[1, 0, cowSectors]],
    keeps: 'data',
    ...layered(32),
  },
  {
    target: 'snapshot',
    title: 'transient, chunks of 8 sectors',
    lengthSectors,
    backingSectors: [originEnd, lengthSectors],
    args: ([a, b]) => [`${a}`, `${b}`, 'N', '8'],
    owns: [[1, 0, lengthSectors]],
    keeps: 'data',
    ...layered(8),
  },
  {
    target: 'snapshot',
    title: 'transient, one chunk for all of it, discards',
    lengthSectors,
    backingSectors: [originEnd, cowSectors],
    args: ([a, b]) => [`${a}`, `${b}`, 'N', '1024', '1', 'discard_zeroes_cow'],
    owns: [[1, 0, cowSectors]],
    keeps: 'data',
    ...layered(1024),
  },
  {
    target: 'snapshot-merge',
    title: 'nothing to merge',
    lengthSectors,
    backingSectors: [originEnd, cowSectors],
    args: ([a, b]) => [`${a}`, `${b}`, 'P', '8'],
    owns: [
      [0, beginSectors, lengthSectors],
      [1, 0, cowSectors],
    ],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'log-writes',
    title: 'a log with room',
    lengthSectors,
    backingSectors: [originEnd + 3, 2000],
    args: ([a, b]) => [`${a}`, `${b}`],
    owns: [
      [0, beginSectors, lengthSectors],
      [1, 0, 2000],
    ],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'log-writes',
    title: 'a log that is full at once',
    lengthSectors,
    backingSectors: [originEnd, 20],
    args: ([a, b]) => [`${a}`, `${b}`],
    owns: [
      [0, beginSectors, lengthSectors],
      [1, 0, 20],
    ],
    keeps: 'data',
    ...flat,
  },
  {
    target: 'switch',
    title: 'three paths, regions of 7 sectors',
    lengthSectors,
    backingSectors: [lengthSectors + 20, lengthSectors, lengthSectors + 5],
    args: ([a, b, c]) => ['3', '7', '0', `${a}`, '20', `${b}`, '0', `${c}`, '5'],
    // Round robin: each path has every third region, and the last one is short.
    owns: Array.from({ length: Math.ceil(lengthSectors / 7) }, (_, region) => {
      const first = region * 7;
      const path = region % 3;
      return [path, ([20, 0, 5][path] as number) + first, Math.min(7, lengthSectors - first)];
    }),
    keeps: 'data',
    ...flat,
  },
  {
    target: 'switch',
    title: 'one path, a region larger than all of it',
    lengthSectors,
    backingSectors: [lengthSectors + 9],
    args: ([a]) => ['1', '4294967295', '0', `${a}`, '9'],
    owns: [[0, 9, lengthSectors]],
    keeps: 'data',
    ...flat,
  },
];
