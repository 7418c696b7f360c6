/**
 * Another device of this daemon as a backing: targets stack. Each Io becomes a child of its own in
 * the device beneath, which counts it, and may hold it while it is suspended.
 */

import type { Device, DeviceUser } from '../device/device.js';
import type { Io, IoOwner, IoPool } from '../device/io.js';
import type { Backing, Features } from './backing.js';

/** Somebody who is no device and has devices open: a copy. */
export interface BackingUser {
  /** As in "in use by copy 3". */
  readonly title: string;
  /** The device is being removed by force; it fails everything from now on. */
  deviceRemoved(device: Device): void;
}

/** The two ways in which a table line can name a device of this daemon. */
const prefixes = ['dm:', '/dev/mapper/'] as const;

/** The device's name, if the word is one of the ways to name a device. */
export function deviceNamed(word: string): string | null {
  for (const prefix of prefixes) if (word.startsWith(prefix)) return word.slice(prefix.length);
  return null;
}

export class DeviceBacking implements Backing, IoOwner, DeviceUser {
  readonly device: Device;
  /** The device with the table that this is for, or who else it is for. */
  readonly above: Device | BackingUser;
  readonly #prefix: string;
  readonly #ios: IoPool;

  constructor(word: string, device: Device, above: Device | BackingUser, ios: IoPool) {
    this.device = device;
    this.above = above;
    this.#prefix = prefixes.find((prefix) => word.startsWith(prefix)) ?? prefixes[0];
    this.#ios = ios;
    device.users.add(this);
  }

  /** Follows the device when it is renamed. */
  get name(): string {
    return this.#prefix + this.device.name;
  }

  get identity(): object {
    return this.device;
  }

  get features(): Features {
    const features = this.device.live?.features;
    return {
      writable: !this.device.readOnly && (features?.writable ?? false),
      trim: features?.trim ?? false,
      fastZero: features?.fastZero ?? false,
      extents: features?.extents ?? false,
      rotational: features?.rotational ?? false,
      blockBytes: features?.blockBytes ?? 1,
    };
  }

  size(): number {
    return this.device.sizeBytes;
  }

  submit(io: Io): void {
    const child = this.#ios.take(io.operation, io.backingOffset, io.length, this);
    child.flags = io.flags;
    child.memory = io.memory;
    child.extents = io.extents;
    child.parent = io;
    this.device.submit(child);
  }

  finished(child: Io): void {
    const io = child.parent as Io;
    const error = child.error;
    io.allZero = child.allZero;
    this.#ios.give(child);
    io.complete(error);
  }

  /** Removed by force: what comes later ends with EIO, as from any device without a table. */
  deviceRemoved(): void {
    if ('title' in this.above) this.above.deviceRemoved(this.device);
  }

  /** Who it is for, as an error text says it. */
  get userTitle(): string {
    return 'title' in this.above ? this.above.title : `device "${this.above.name}"`;
  }

  close(): void {
    this.device.users.delete(this);
  }
}
