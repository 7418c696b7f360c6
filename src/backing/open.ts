/**
 * Opens what a word of a table line names:
 *
 *   /path/to/file or block device      file:///path?direct=1 (O_DIRECT)
 *   dm:NAME   /dev/mapper/NAME         another device of this daemon
 */

import { EAGAIN, EBUSY, EINVAL, ENODEV } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { stackDepth } from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { Device } from '../device/device.js';
import { ErrorLog } from '../device/error-log.js';
import type { Io, IoPool } from '../device/io.js';
import type { OpenBacking, Table } from '../device/table.js';
import type { Engine, EngineFile } from '../engine/engine.js';
import type { Features } from './backing.js';
import { type BackingUser, DeviceBacking, deviceNamed } from './device.js';
import { FileBacking } from './file.js';
import { type FileGuard, openToAll } from './guard.js';
import { HoleCache } from './hole-cache.js';

export interface FileWord {
  readonly path: string;
  readonly direct: boolean;
}

/** Takes a path or file:// URI apart; throws MapperError. */
export function parseFileWord(word: string): FileWord {
  if (!word.startsWith('file:')) {
    if (!word.startsWith('/')) {
      const wanted = 'an absolute path, file:///path, dm:NAME or /dev/mapper/NAME';
      throw new MapperError(EINVAL, `found "${word}", wanted ${wanted}`);
    }
    return { path: word, direct: false };
  }
  let uri: URL;
  try {
    uri = new URL(word);
  } catch {
    throw new MapperError(EINVAL, `"${word}" is not a URI`);
  }
  if (uri.host !== '' || uri.hash !== '' || !word.startsWith('file:///')) {
    throw new MapperError(EINVAL, `found "${word}", wanted file:///path or file:///path?direct=1`);
  }
  let direct = false;
  for (const [key, value] of uri.searchParams) {
    if (key !== 'direct') throw new MapperError(EINVAL, `"${key}" unknown in "${word}"`);
    if (value !== '0' && value !== '1') {
      throw new MapperError(EINVAL, `direct=${value} in "${word}", wanted 0 or 1`);
    }
    direct = value === '1';
  }
  try {
    return { path: decodeURIComponent(uri.pathname), direct };
  } catch {
    throw new MapperError(EINVAL, `bad percent-encoding in "${word}"`);
  }
}

interface SharedFile {
  readonly backing: FileBacking;
  readonly identity: object;
  readonly close: () => void;
  users: number;
}

/** A table's hold on a file that it may share with other tables. */
class FileHandle implements OpenBacking {
  readonly name: string;
  readonly identity: object;
  readonly features: Features;
  readonly file: FileBacking;
  readonly #release: () => void;

  constructor(name: string, file: SharedFile, release: () => void) {
    this.name = name;
    this.identity = file.identity;
    this.features = file.backing.features;
    this.file = file.backing;
    this.#release = release;
  }

  size(): number {
    return this.file.size();
  }

  submit(io: Io): void {
    this.file.submit(io);
  }

  close(): void {
    this.#release();
  }
}

export class Backings {
  readonly #engine: Engine;
  readonly #ios: IoPool;
  readonly #log: Log;
  readonly #findDevice: (name: string) => Device | undefined;
  readonly #guard: FileGuard;
  /** Files open now, by identity and way of opening. */
  readonly #files = new Map<string, SharedFile>();
  /** One for each file beneath, whichever way it is open. */
  readonly #holes = new Map<string, { cache: HoleCache; users: number }>();

  constructor(
    engine: Engine,
    ios: IoPool,
    log: Log,
    findDevice: (name: string) => Device | undefined,
    guard: FileGuard = openToAll,
  ) {
    this.#engine = engine;
    this.#ios = ios;
    this.#log = log;
    this.#findDevice = findDevice;
    this.#guard = guard;
  }

  /**
   * For a table of `user`, or for somebody who is no device; a file is opened for writing unless
   * `readOnly`. Throws MapperError.
   */
  open(word: string, user: Device | BackingUser, readOnly: boolean): OpenBacking {
    const name = deviceNamed(word);
    if (name === null) return this.#openFile(word, !readOnly);
    const device = this.#findDevice(name);
    if (device === undefined) throw new MapperError(ENODEV, `no device "${name}"`);
    if ('title' in user) return new DeviceBacking(word, device, user, this.#ios);
    const standing = levels(user, devicesAbove);
    if (standing.some((level) => level.has(device))) {
      throw new MapperError(EBUSY, `"${user.name}" would stand on itself through "${name}"`);
    }
    const depth = levels(device, dependencies).length + standing.length;
    if (depth > stackDepth) {
      throw new MapperError(EINVAL, `${depth} devices over one another, at most ${stackDepth}`);
    }
    return new DeviceBacking(word, device, user, this.#ios);
  }

  #openFile(word: string, writable: boolean): OpenBacking {
    const { path, direct } = parseFileWord(word);
    const admitted = this.#guard.admit(path);
    const file = this.#engine.open(path, { writable, direct });
    const release = this.#guarded(file, admitted);
    const key = `${file.identity} ${writable} ${direct}`;
    let shared = this.#files.get(key);
    if (shared === undefined) {
      try {
        shared = this.#share(file, path);
      } catch (error) {
        file.close();
        release();
        throw error;
      }
      this.#files.set(key, shared);
    } else {
      file.close();
    }
    const held = shared;
    held.users++;
    return new FileHandle(word, held, () => {
      if (--held.users === 0) {
        this.#files.delete(key);
        held.close();
      }
      release();
    });
  }

  #guarded(file: EngineFile, admitted: string | null): () => void {
    try {
      return this.#guard.opened(file, admitted);
    } catch (error) {
      file.close();
      throw error;
    }
  }

  #share(file: EngineFile, path: string): SharedFile {
    const buffered = file.direct ? this.#openBuffered(path, file) : file;
    const holes = this.#holes.get(file.identity) ?? { cache: new HoleCache(), users: 0 };
    this.#holes.set(file.identity, holes);
    holes.users++;
    const errors = new ErrorLog(this.#engine, this.#log);
    const close = (): void => {
      file.close();
      if (buffered !== file) buffered.close();
      if (--holes.users === 0) this.#holes.delete(file.identity);
    };
    const backing = new FileBacking(this.#engine, file, buffered, holes.cache, errors);
    return { backing, identity: holes.cache, close, users: 0 };
  }

  /** The second descriptor of a file that is open directly. */
  #openBuffered(path: string, file: EngineFile): EngineFile {
    const buffered = this.#engine.open(path, { writable: file.writable, direct: false });
    if (buffered.identity === file.identity) return buffered;
    buffered.close();
    throw new MapperError(EAGAIN, `${path} became another file while it was opened`);
  }
}

/** The devices that one's tables, live and inactive, stand on directly. */
export function dependencies(device: Device): Device[] {
  const of = (table: Table | null): Device[] =>
    (table?.backings ?? []).flatMap((b) => (b instanceof DeviceBacking ? [b.device] : []));
  return [...new Set([...of(device.live), ...of(device.inactive)])];
}

/** The devices that stand on one directly, those with a table that is being made included. */
function devicesAbove(device: Device): Device[] {
  return [...device.users].flatMap((user) =>
    user instanceof DeviceBacking && !('title' in user.above) ? [user.above] : [],
  );
}

/** The device, those next to it, those next to these... Sets: there may be many ways to each. */
function levels(device: Device, next: (device: Device) => Device[]): Set<Device>[] {
  const all: Set<Device>[] = [];
  let level = new Set([device]);
  while (level.size > 0) {
    all.push(level);
    level = new Set([...level].flatMap(next));
  }
  return all;
}
