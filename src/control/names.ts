/**
 * Device names, and the files in the state directory that they go with. A name is 1 to 127 bytes of
 * UTF-8 without "/" and control characters. Its file is the name and `.table`; a character that is
 * awkward in a file name (a blank, `%`, a quote, a leading dot) is percent-encoded, so that each
 * name has one file and files that start with a dot are never tables.
 */

import { deviceNameBytes } from '../base/limits.js';

const suffix = '.table';
const regionsSuffix = '.regions';

/** What is wrong with a device name; null when nothing is. */
export function nameProblem(name: string): string | null {
  if (name === '') return 'device name is empty, wanted 1 to 127 bytes';
  const bytes = Buffer.byteLength(name);
  if (bytes > deviceNameBytes) {
    return `device name has ${bytes} bytes, wanted at most ${deviceNameBytes}`;
  }
  const found = /[/\p{Cc}\p{Cs}]/u.exec(name)?.[0];
  if (found === undefined) return null;
  const what = found === '/' ? 'a "/"' : 'a control character';
  return `device name ${JSON.stringify(name)} has ${what}, wanted none`;
}

export function tableFileName(name: string): string {
  return encodeName(name) + suffix;
}

export function isTableFile(file: string): boolean {
  return file.endsWith(suffix) && !file.startsWith('.');
}

/** The device that a table file is for; null if no device has a file of that name. */
export function deviceOfTableFile(file: string): string | null {
  if (!isTableFile(file)) return null;
  return decodeName(file.slice(0, -suffix.length));
}

/** Where a device's region tables are: see RegionFiles. */
export function regionsFileName(name: string): string {
  return encodeName(name) + regionsSuffix;
}

/** The device that a file of region tables is for; null for any other file. */
export function deviceOfRegionsFile(file: string): string | null {
  if (!file.endsWith(regionsSuffix) || file.startsWith('.')) return null;
  return decodeName(file.slice(0, -regionsSuffix.length));
}

/** ASCII but for letters, digits and the harmless `+ , - . : = @ _ ~`, and a dot in front. */
const awkward = /[\x20-\x2a\x2f\x3b\x3c\x3e\x3f\x5b-\x5e\x60\x7b-\x7d]|^\./g;

export function encodeName(name: string): string {
  return name.replace(awkward, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** The name that `encodeName` made this from; null if it made it from none. */
export function decodeName(encoded: string): string | null {
  let name: string;
  try {
    name = decodeURIComponent(encoded);
  } catch {
    return null;
  }
  return nameProblem(name) === null && encodeName(name) === encoded ? name : null;
}
