/** Quantities as people write and read them: "2s", "500ms", "48.2 MiB", "1.25 ms". */

import { EINVAL } from './errno.js';
import { MapperError } from './errors.js';

const durations = new Map([
  ['', 1000],
  ['s', 1000],
  ['ms', 1],
  ['m', 60_000],
]);

/** Milliseconds in "2s", "500ms", "1m", or "3" (seconds). Throws MapperError. */
export function parseDuration(text: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)(ms|s|m|)$/.exec(text);
  const unit = durations.get(match?.[2] ?? 'none');
  if (match === null || unit === undefined) {
    throw new MapperError(EINVAL, `found duration "${text}", wanted a number with ms, s or m`);
  }
  return Number(match[1]) * unit;
}

const byteUnits = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];

/** `512 B`, `4.0 KiB`, `1.0 GiB`: one decimal from KiB on. */
export function formatBytes(bytes: number): string {
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < byteUnits.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${byteUnits[unit]}`;
}

/** `87 us`, `1.25 ms`, `3.00 s`. */
export function formatMicroseconds(microseconds: number): string {
  if (microseconds < 1000) return `${Math.round(microseconds)} us`;
  if (microseconds < 1_000_000) return `${(microseconds / 1000).toFixed(2)} ms`;
  return `${(microseconds / 1_000_000).toFixed(2)} s`;
}
