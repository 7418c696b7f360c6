/**
 * BLOCK_STATUS: for every metadata context that a request asks for, the extents of its range. What
 * the device knows (holes, depths) is asked by a STATUS for each; what has changed since a snapshot
 * is in its record, which answers at once. If one of them fails, so does the request.
 *
 *   payload of a request that chooses among the contexts      u64 length, (u32 context)...
 */

import { EINVAL, EIO, errnoName } from '../base/errno.js';
import { statusAnswersInAll, statusAnswersPerConnection } from '../base/limits.js';
import type { ChangeMap } from '../device/change-map.js';
import type { Device } from '../device/device.js';
import type { ExtentList } from '../device/extent-list.js';
import { FLAG_DEPTH, FLAG_ONE, STATUS } from '../device/io.js';
import { CMD_FLAG_REQ_ONE } from './constants.js';
import type { MetaContext } from './meta-context.js';
import { decodeLength, type Request } from './request.js';
import type { Resources } from './resources.js';
import { statusPayloadBytes } from './validate.js';

export class BlockStatus {
  readonly #contexts: readonly MetaContext[];
  readonly #device: Device;
  readonly #resources: Resources;
  /** Answers that requests hold. */
  #held = 0;

  /** `contexts` are those that were negotiated. */
  constructor(contexts: readonly MetaContext[], device: Device, resources: Resources) {
    this.#contexts = contexts;
    this.#device = device;
    this.#resources = resources;
  }

  /** Whether one more request may begin now; the first may always. */
  get admits(): boolean {
    if (this.#held === 0) return true;
    const after = this.#held + this.#contexts.length;
    const left = statusAnswersInAll - this.#resources.extentsInUse;
    return after <= statusAnswersPerConnection && after <= left;
  }

  /** The request asks for all that was negotiated. */
  chooseAll(request: Request): void {
    request.contexts = this.#contexts;
  }

  /**
   * Takes length and contexts from a payload of a size that has been checked. False: the contexts
   * are not such as may be asked for, and the request has an error.
   */
  choose(request: Request, view: DataView, at: number): boolean {
    const end = at + request.length;
    const chosen: MetaContext[] = [];
    for (let place = at + statusPayloadBytes(0); place < end; place += 4) {
      const id = view.getUint32(place);
      const context = this.#contexts.find((one) => one.id === id);
      if (context === undefined || chosen.includes(context)) {
        const fault = context === undefined ? 'wanted one that was selected' : 'found it twice';
        request.error = EINVAL;
        request.reason = `block status: found context ${id}, ${fault}`;
        return false;
      }
      chosen.push(context);
    }
    decodeLength(view, at, request);
    request.contexts = chosen;
    return true;
  }

  start(request: Request): void {
    for (const { name, source } of request.contexts) {
      const list = this.#resources.takeExtents();
      request.answers.push(list);
      this.#held++;
      if (typeof source === 'string') this.#ask(request, list, source === 'depth');
      else this.#lookUp(request, list, name, source);
      if (request.error !== 0) return;
    }
  }

  #ask(request: Request, list: ExtentList, depth: boolean): void {
    const { offset, length } = request;
    const io = this.#resources.ios.take(STATUS, offset, length, request);
    const one = (request.flags & CMD_FLAG_REQ_ONE) !== 0 ? FLAG_ONE : 0;
    io.flags = depth ? one | FLAG_DEPTH : one;
    io.extents = list;
    request.pending++;
    this.#device.submit(io);
  }

  #lookUp(request: Request, list: ExtentList, name: string, changes: ChangeMap): void {
    const { offset, length } = request;
    const errno = changes.extents(offset, length, list);
    if (errno === 0 && list.count > 0) return;
    request.error = EIO;
    const why = errno === 0 ? 'nothing known' : errnoName(errno);
    request.reason = `block status of ${length} bytes at ${offset}: ${name}: ${why}`;
    const { name: device } = this.#device;
    this.#resources.errors.report(
      { device, command: 'block status', offset, length, code: errnoName(errno || EIO) },
      `${device}: ${request.reason}`,
    );
  }

  release(request: Request): void {
    for (const list of request.answers) this.#resources.giveExtents(list);
    this.#held -= request.answers.length;
    request.answers.length = 0;
    request.answersSent = 0;
  }
}
