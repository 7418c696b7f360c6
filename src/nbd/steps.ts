/**
 * Requests that are carried out in steps, one after the other, because all of them at once would
 * take too much of something:
 *
 *   CACHE                 reads into one scratch block, so that the page cache has the range
 *   TRIM, WRITE_ZEROES    over a very long range; with extended headers that may be petabytes, and
 *                         a target may have to look at each of its chunks
 */

import { ESHUTDOWN } from '../base/errno.js';
import { blockBytesMax, payloadBytes, rangeStepBytes } from '../base/limits.js';
import type { Device } from '../device/device.js';
import { FLAG_FAST, FLAG_HOLES_OK, type Io, type Operation, READ } from '../device/io.js';
import type { Admission } from './admission.js';
import type { Request } from './request.js';
import type { Resources } from './resources.js';

/** Who carries out requests in steps. */
export interface StepOwner {
  /** The daemon is going down, or nobody waits for the answer: no more steps. */
  readonly closing: boolean;
}

export class Steps {
  readonly #owner: StepOwner;
  readonly #device: Device;
  readonly #resources: Resources;
  readonly #admission: Admission;

  constructor(owner: StepOwner, device: Device, resources: Resources, admission: Admission) {
    this.#owner = owner;
    this.#device = device;
    this.#resources = resources;
    this.#admission = admission;
  }

  /** Begins a CACHE. It is a hint: without memory to spare, or for too much, it is not followed. */
  readAhead(request: Request): void {
    if (request.length > payloadBytes) return;
    if (!this.#admission.borrow(request, scratchBytes(request))) return;
    request.stepped = true;
    request.pending++;
    this.#step(request, READ, FLAG_HOLES_OK, request.offset);
  }

  /** Begins a TRIM or ZERO that is longer than `rangeStepBytes`. */
  cover(request: Request, operation: Operation, flags: number): void {
    request.stepped = true;
    request.pending++;
    this.#step(request, operation, flags, request.offset);
  }

  #step(request: Request, operation: Operation, flags: number, offset: number): void {
    const end = request.offset + request.length;
    // Steps over a range end where chunks and regions do, so that none of these is cut.
    const most = operation === READ ? blockBytesMax : rangeStepBytes - (offset % rangeStepBytes);
    const io = this.#resources.ios.take(operation, offset, Math.min(most, end - offset), request);
    io.flags = flags;
    io.memory = request.memory;
    this.#device.submit(io);
  }

  /** A step has ended. True: it is not the last one, and the Io was given back. */
  goesOn(request: Request, io: Io): boolean {
    const { operation, flags } = io;
    const next = io.offset + io.length;
    const done = request.error !== 0 || next === request.offset + request.length;
    if (!done && this.#owner.closing) {
      request.error = ESHUTDOWN;
      request.reason = `the server is shutting down, done are ${next - request.offset} bytes`;
    }
    if (request.error !== 0 || done) {
      if (operation === READ) this.#admission.giveBack(request, scratchBytes(request));
      return false;
    }
    this.#resources.ios.give(io);
    if (operation === READ) {
      this.#step(request, operation, flags, next);
    } else {
      // Something has changed already, so that it is too late to refuse for want of a fast way.
      const rest = flags & ~FLAG_FAST;
      const inTurn = { done: () => this.#step(request, operation, rest, next) };
      this.#resources.engine.timer(0, inTurn);
    }
    return true;
  }
}

function scratchBytes(request: Request): number {
  return Math.min(request.length, blockBytesMax);
}
