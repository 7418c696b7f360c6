/**
 * What is measured: a device of the daemon and the files beneath it, or scratch ones. Reading is
 * all that is done to a device, unless its owner has said that its data may go; writes are for
 * scratch files and a scratch snapshot.
 *
 *                       reads                        writes (--write)
 *   no device           scratch file, scratch device over it, for both
 *   device              its files, the device        scratch file, scratch snapshot of the device
 *   --destroy-data      its files, the device        its files, the device
 */

import { access, constants, open, stat } from 'node:fs/promises';
import { EACCES, EBUSY, EINVAL } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { formatBytes } from '../base/sizes.js';
import type { ControlClient } from '../ctl/client.js';
import type { TableLine } from '../queue/commands.js';
import { type Beneath, isPlain, type LikeParts, largestLike, partsBeneath } from './beneath.js';
import { type FilePlace, loadsOf, type Place } from './loads.js';
import type { Trial } from './measure.js';
import { chooseFileEngine } from './programs.js';
import type { Scratch, ScratchFile } from './scratch.js';

export type Writes = 'no' | 'scratch' | 'destroy';

export interface Request {
  /** null: scratch ones. */
  readonly device: string | null;
  readonly writes: Writes;
  /** What is touched, from the beginning on; null: all that the page cache has no part in. */
  readonly areaBytes: number | null;
  /** Scratch files are read and written through the page cache. */
  readonly buffered: boolean;
  readonly uriOf: (exportName: string) => string;
}

export interface Subject {
  readonly title: string;
  readonly notes: readonly string[];
  readonly trials: readonly Trial[];
  /** Read once before they are measured: they are in the page cache then. */
  readonly cached: readonly FilePlace[];
}

/** The base, and what is compared with it. */
export const rawLayer = 'raw';
const nbdLayer = 'nbd';

const MiB = 2 ** 20;
/** What is measured of something cached, and the size of scratch files, if nobody says. */
const cachedBytes = 256 * MiB;

interface Setting {
  readonly client: ControlClient;
  readonly scratch: Scratch;
  readonly request: Request;
  readonly signal: AbortSignal;
}

/** Makes what is needed. Throws MapperError. */
export async function prepareSubject(setting: Setting): Promise<Subject> {
  const { device } = setting.request;
  return device === null ? scratchSubject(setting) : deviceSubject(setting, device);
}

async function scratchSubject({ scratch, request, signal }: Setting): Promise<Subject> {
  const { buffered, uriOf, writes } = request;
  const areaBytes = wholeMiB(request.areaBytes ?? cachedBytes);
  const file = await scratch.file(areaBytes);
  const direct = file.direct && !buffered;
  const name = await scratch.device(file, direct);
  const raw = await filePlace(file, direct, signal);
  const nbd: Place = { kind: 'export', uri: uriOf(name), lengthBytes: areaBytes };
  const trials = [...loadsOf('read'), ...(writes === 'no' ? [] : loadsOf('write'))].map((load) => ({
    load,
    places: [
      { layer: rawLayer, place: raw },
      { layer: nbdLayer, place: nbd },
    ],
  }));
  const how = direct ? 'past the page cache' : 'through the page cache';
  return {
    title: `mapperd over a scratch file of ${formatBytes(areaBytes)}`,
    notes: [`raw: the file, ${how}, by ${raw.engine}; nbd: a linear device over it`],
    trials,
    cached: direct ? [] : [raw],
  };
}

async function deviceSubject(setting: Setting, device: string): Promise<Subject> {
  const { client, request, signal } = setting;
  const { uriOf, writes } = request;
  const info = await client.call('info', { name: device });
  if (info.state === 'SUSPENDED') {
    throw new MapperError(EBUSY, `device "${device}" is suspended: resume it first`);
  }
  const tableOf = async (name: string) => (await client.call('table', { name })) as TableLine[];
  const beneath = await partsBeneath(device, tableOf);
  if (writes === 'destroy') await refuseDestroying(setting, device, beneath);
  const like = largestLike(beneath.parts);
  const most = like?.direct === true ? Number.POSITIVE_INFINITY : cachedBytes;
  const areaBytes = wholeMiB(Math.min(info.sizeSectors * 512, request.areaBytes ?? most));
  if (areaBytes < MiB) {
    throw new MapperError(EINVAL, `"${device}" has ${info.sizeSectors} sectors, wanted 1 MiB`);
  }
  const notes: string[] = [];
  const raw = await rawPlace(like, beneath.parts.length, areaBytes, signal, notes);
  const nbd: Place = { kind: 'export', uri: uriOf(device), lengthBytes: areaBytes };
  const places = layered(raw, nbd);
  const trials: Trial[] = loadsOf('read').map((load) => ({ load, places }));
  if (writes === 'destroy') trials.push(...loadsOf('write').map((load) => ({ load, places })));
  if (writes === 'scratch') {
    const writtenBytes = Math.min(areaBytes, wholeMiB(request.areaBytes ?? cachedBytes));
    trials.push(...(await scratchWrites(setting, device, writtenBytes, notes)));
  }
  return {
    title: `mapperd, device ${device}, the first ${formatBytes(areaBytes)} of it`,
    notes,
    trials,
    cached: raw !== null && !raw.direct ? [raw] : [],
  };
}

function layered(raw: Place | null, nbd: Place): Trial['places'] {
  const own = { layer: nbdLayer, place: nbd };
  return raw === null ? [own] : [{ layer: rawLayer, place: raw }, own];
}

/** The files beneath, as the device reads them; null, and a note, if that cannot be measured. */
async function rawPlace(
  like: LikeParts | null,
  allParts: number,
  areaBytes: number,
  signal: AbortSignal,
  notes: string[],
): Promise<FilePlace | null> {
  if (like === null) {
    notes.push('raw: none, for the device stands on no file or block device');
    return null;
  }
  const { paths, direct, offsetSectors, lengthSectors } = like;
  const lengthBytes = wholeMiB(Math.min(lengthSectors * 512, areaBytes / paths.length));
  try {
    if (lengthBytes < MiB) throw new MapperError(EINVAL, 'parts are smaller than 1 MiB');
    for (const path of paths) await access(path, constants.R_OK);
    const engine = await chooseFileEngine(paths[0] as string, direct, signal);
    const offsetBytes = offsetSectors * 512;
    const others = allParts > paths.length ? ` (${paths.length} of ${allParts} parts)` : '';
    const how = direct ? 'past the page cache' : 'through the page cache';
    notes.push(`raw: ${paths.join(', ')}${others}, ${how}, by ${engine}; nbd: the device`);
    return { kind: 'files', paths, direct, offsetBytes, lengthBytes, engine };
  } catch (error) {
    if (signal.aborted) throw error;
    notes.push(`raw: not measured: ${messageOf(error)}`);
    return null;
  }
}

/** Writes that reach no data of the device's: into a snapshot of it, and beside that. */
async function scratchWrites(
  { scratch, request, signal }: Setting,
  device: string,
  areaBytes: number,
  notes: string[],
): Promise<Trial[]> {
  const snapshot = await scratch.snapshot(device);
  const file = await scratch.file(areaBytes);
  const raw = await filePlace(file, false, signal);
  const nbd: Place = { kind: 'export', uri: request.uriOf(snapshot), lengthBytes: areaBytes };
  notes.push('writes: raw is a scratch file where the COW is; nbd is a transient snapshot');
  return loadsOf('write').map((load) => ({ load, places: layered(raw, nbd) }));
}

async function filePlace(
  { path, bytes }: ScratchFile,
  direct: boolean,
  signal: AbortSignal,
): Promise<FilePlace> {
  const engine = await chooseFileEngine(path, direct, signal);
  return { kind: 'files', paths: [path], direct, offsetBytes: 0, lengthBytes: bytes, engine };
}

/** Throws MapperError if anybody could miss more than they have said may go. */
async function refuseDestroying(
  { client }: Setting,
  device: string,
  beneath: Beneath,
): Promise<void> {
  const fail = (text: string, errno = EBUSY): MapperError =>
    new MapperError(errno, `--destroy-data: "${device}" ${text}`);
  const all = await client.call('ls', {});
  const info = all.find(({ name }) => name === device);
  if (info === undefined || info.openCount > 0) throw fail('is in use');
  if (info.readOnly) throw fail('is read-only', EACCES);
  if (!isPlain(beneath)) {
    const types = [...beneath.types].join(', ');
    throw fail(`has more than linear and striped targets in it (${types})`, EINVAL);
  }
  const mine = new Set(beneath.parts.map(({ path }) => path));
  const tableOf = async (name: string) => (await client.call('table', { name })) as TableLine[];
  const below = new Set<string>();
  const descend = (name: string): void => {
    if (below.has(name)) return;
    below.add(name);
    for (const one of all.find((info) => info.name === name)?.dependencies ?? []) descend(one);
  };
  descend(device);
  for (const { name } of all.filter((one) => !below.has(one.name))) {
    const { parts } = await partsBeneath(name, tableOf);
    const shared = parts.find(({ path }) => mine.has(path));
    if (shared !== undefined) throw fail(`shares "${shared.path}" with device "${name}"`);
  }
  for (const path of mine) {
    if (await isHeld(path)) throw fail(`stands on "${path}", which the system has in use`);
  }
}

/** A block device that the kernel has in use itself: mounted, or part of another one. */
async function isHeld(path: string): Promise<boolean> {
  if (!(await stat(path)).isBlockDevice()) return false;
  try {
    const device = await open(path, constants.O_RDONLY | constants.O_EXCL);
    await device.close();
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EBUSY';
  }
}

function wholeMiB(bytes: number): number {
  return Math.floor(bytes / MiB) * MiB;
}
