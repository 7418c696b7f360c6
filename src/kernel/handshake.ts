/**
 * The client's side of NBD's handshake, with nothing but bytes: for one export, with simple replies,
 * which are all that the kernel's driver knows.
 *
 *   server   greeting: u64 NBDMAGIC, u64 IHAVEOPT, u16 flags
 *   client   u32 flags; then GO: u64 IHAVEOPT, u32 option, u32 length,
 *            u32 bytes of the name, the name, u16 number of facts asked for, u16 each
 *   server   option replies: u64 magic, u32 option, u32 type, u32 length, data; the last is ACK
 *
 * After that ACK the server is silent until it is asked something, so nothing is lost when the
 * socket is handed on.
 */

import { ECONNRESET, EINVAL, EIO, ENXIO, EOPNOTSUPP, EPERM, ESHUTDOWN } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { stringBytes } from '../base/limits.js';
import * as nbd from '../nbd/constants.js';

export interface ExportFacts {
  readonly sizeBytes: number;
  /** Transmission flags. */
  readonly flags: number;
  readonly blockBytesMin: number;
}

/** What a refusal means to whoever asked; the server's own text follows. */
const refusals = new Map([
  [nbd.REP_ERR_UNKNOWN, { errno: ENXIO, text: 'the daemon has no such export' }],
  [nbd.REP_ERR_POLICY, { errno: EPERM, text: 'the daemon does not allow it' }],
  [nbd.REP_ERR_TLS_REQD, { errno: EOPNOTSUPP, text: 'the daemon wants TLS' }],
  [nbd.REP_ERR_SHUTDOWN, { errno: ESHUTDOWN, text: 'the daemon is ending' }],
]);

export class ClientHandshake {
  readonly #name: Buffer;
  #received: Buffer = Buffer.alloc(0);
  #greeted = false;
  #export: Omit<ExportFacts, 'blockBytesMin'> | null = null;
  #blockBytesMin = 1;
  /** Null until the server has agreed. */
  result: ExportFacts | null = null;

  /** Throws MapperError EINVAL. */
  constructor(exportName: string) {
    this.#name = Buffer.from(exportName);
    if (this.#name.length <= stringBytes) return;
    throw new MapperError(EINVAL, `export name is longer than ${stringBytes} bytes`);
  }

  /** Takes what the server has sent; returns what is to be sent to it. Throws MapperError. */
  feed(bytes: Uint8Array): Uint8Array {
    this.#received = Buffer.concat([this.#received, bytes]);
    const answer = this.#greeted ? new Uint8Array(0) : this.#greeting();
    while (this.#greeted && this.result === null && this.#reply());
    return answer;
  }

  /** For when the connection has ended in between. */
  ended(): MapperError {
    return new MapperError(ECONNRESET, 'the daemon ended the connection in the handshake');
  }

  #take(count: number): Buffer {
    const taken = this.#received.subarray(0, count);
    this.#received = this.#received.subarray(count);
    return taken;
  }

  #greeting(): Uint8Array {
    if (this.#received.length < nbd.GREETING_BYTES) return new Uint8Array(0);
    const greeting = this.#take(nbd.GREETING_BYTES);
    const known =
      greeting.readUInt32BE(0) === nbd.INIT_PASSWD_HIGH &&
      greeting.readUInt32BE(4) === nbd.INIT_PASSWD_LOW &&
      greeting.readUInt32BE(8) === nbd.IHAVEOPT_HIGH &&
      greeting.readUInt32BE(12) === nbd.IHAVEOPT_LOW;
    const flags = greeting.readUInt16BE(16);
    if (!known || (flags & nbd.FLAG_FIXED_NEWSTYLE) === 0) {
      throw new MapperError(EIO, 'what answers is no NBD server of our time');
    }
    this.#greeted = true;
    const name = this.#name;
    const answer = Buffer.alloc(nbd.CLIENT_FLAGS_BYTES + nbd.OPTION_HEADER_BYTES + 8 + name.length);
    answer.writeUInt32BE(nbd.FLAG_FIXED_NEWSTYLE | (flags & nbd.FLAG_NO_ZEROES), 0);
    answer.writeUInt32BE(nbd.IHAVEOPT_HIGH, 4);
    answer.writeUInt32BE(nbd.IHAVEOPT_LOW, 8);
    answer.writeUInt32BE(nbd.OPT_GO, 12);
    answer.writeUInt32BE(8 + name.length, 16);
    answer.writeUInt32BE(name.length, 20);
    name.copy(answer, 24);
    answer.writeUInt16BE(1, 24 + name.length);
    answer.writeUInt16BE(nbd.INFO_BLOCK_SIZE, 26 + name.length);
    return answer;
  }

  /** Whether there was a whole one. */
  #reply(): boolean {
    const received = this.#received;
    if (received.length < nbd.OPTION_REPLY_HEADER_BYTES) return false;
    const type = received.readUInt32BE(12);
    const length = received.readUInt32BE(16);
    const expected =
      received.readUInt32BE(0) === nbd.OPTION_REPLY_MAGIC_HIGH &&
      received.readUInt32BE(4) === nbd.OPTION_REPLY_MAGIC_LOW &&
      received.readUInt32BE(8) === nbd.OPT_GO &&
      length <= 2 * stringBytes;
    if (!expected) throw new MapperError(EIO, 'the daemon answers out of step');
    if (received.length < nbd.OPTION_REPLY_HEADER_BYTES + length) return false;
    this.#take(nbd.OPTION_REPLY_HEADER_BYTES);
    const data = this.#take(length);
    if (type === nbd.REP_ACK) this.#agreed();
    else if (type === nbd.REP_INFO) this.#info(data);
    else throw refusal(type, data.toString());
    return true;
  }

  #info(data: Buffer): void {
    const type = data.length < 2 ? -1 : data.readUInt16BE(0);
    if (type === nbd.INFO_EXPORT && data.length === 12) {
      const sizeBytes = Number(data.readBigUInt64BE(2));
      this.#export = { sizeBytes, flags: data.readUInt16BE(10) };
    } else if (type === nbd.INFO_BLOCK_SIZE && data.length === 14) {
      this.#blockBytesMin = data.readUInt32BE(2);
    }
  }

  #agreed(): void {
    if (this.#export === null) throw new MapperError(EIO, 'the daemon told no size');
    this.result = { ...this.#export, blockBytesMin: this.#blockBytesMin };
  }
}

function refusal(type: number, text: string): MapperError {
  const { errno, text: meaning } = refusals.get(type) ?? { errno: EIO, text: 'refused' };
  return new MapperError(errno, text === '' ? meaning : `${meaning}: ${text}`);
}
