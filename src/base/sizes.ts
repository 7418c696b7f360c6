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

const byteFactors = new Map([
  ['', 1],
  ['b', 1],
  ['s', 512],
  ['k', 2 ** 10],
  ['m', 2 ** 20],
  ['g', 2 ** 30],
  ['t', 2 ** 40],
  ['p', 2 ** 50],
]);

/** Bytes in "4k", "1.5G", "64MiB", "2048s" (sectors) or "512". Throws MapperError. */
export function parseBytes(text: string): number {
  const match = /^([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgtp])(?:i?b)?|([bs]?))$/i.exec(text);
  const factor = byteFactors.get((match?.[2] ?? match?.[3] ?? 'none').toLowerCase());
  const bytes = factor === undefined ? Number.NaN : Number(match?.[1]) * factor;
  if (Number.isSafeInteger(bytes)) return bytes;
  throw new MapperError(EINVAL, `found size "${text}", wanted whole bytes, as "512", "4k" or "1G"`);
}

/** `45s`, `12m`, `3h 20m`, `5d 2h`: how long ago. */
export function formatAge(milliseconds: number): string {
  const seconds = Math.max(0, Math.floor(milliseconds / 1000));
  const minutes = Math.floor(seconds / 60);
  const hours = Math.floor(minutes / 60);
  const days = Math.floor(hours / 24);
  if (minutes === 0) return `${seconds}s`;
  if (hours === 0) return `${minutes}m`;
  if (days === 0) return `${hours}h ${minutes % 60}m`;
  return `${days}d ${hours % 24}h`;
}
