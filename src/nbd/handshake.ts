/**
 * The server's side of the fixed newstyle handshake, without I/O: bytes go in, replies come out.
 *
 *   server  greeting
 *   client  u32 client flags
 *   client  u64 IHAVEOPT, u32 option, u32 length, data        (repeated)
 *   server  option replies, the last of which is ACK or an error
 *   ... until GO or EXPORT_NAME is granted: the next byte belongs to transmission.
 *
 * A handshake that somebody else has begun (TLS needs that) is resumed behind the client flags.
 *
 * The stream is a row of parts (client flags, option header, option data), each of known length.
 * All that is kept between two chunks is which part comes, and how many bytes of it are still
 * wanted. Data of an option that will be refused whatever it says is counted and not kept.
 */

import { Buffer } from 'node:buffer';
import { assert } from '../base/assert.js';
import * as limits from '../base/limits.js';
import * as nbd from './constants.js';
import type { ExportDirectory } from './export.js';
import { type HandshakeOutcome, Negotiation } from './negotiation.js';
import { OptionRefusal, optionName } from './option.js';
import * as replies from './option-reply.js';
import type { Greeted } from './piped.js';
import type { ProtocolOptions } from './protocol-options.js';

export type { HandshakeOutcome } from './negotiation.js';

/** 'ended': the output is to be sent, then the connection is to be closed. */
export type HandshakeState = 'haggling' | 'transmission' | 'ended';

type Part = 'client flags' | 'option header' | 'option data';

const handshakeFlags = nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES;

const noData = Buffer.alloc(0);

export class Handshake {
  readonly #negotiation: Negotiation;

  /** The part that is being received, its bytes still wanted, and where they go (null: nowhere). */
  #part: Part = 'client flags';
  #wanted = nbd.CLIENT_FLAGS_BYTES;
  #into: Buffer | null = Buffer.alloc(nbd.CLIENT_FLAGS_BYTES);
  readonly #header = Buffer.alloc(nbd.OPTION_HEADER_BYTES);

  #clientFlags = 0;
  /** The option whose data is being received, and what it will be refused with all the same. */
  #option = 0;
  #refusal: OptionRefusal | null = null;
  #options = 0;

  #state: HandshakeState = 'haggling';
  #failure: string | null = null;
  /** Why options are refused: the daemon is going down. */
  #closing: string | null = null;

  #output: Uint8Array[] = [];
  #outputBytes = 0;

  /** `secure`: TLS has begun. `resume`: the client has been greeted, and its flags are these. */
  constructor(
    directory: ExportDirectory,
    options: ProtocolOptions,
    secure: boolean,
    resume: Greeted | null,
  ) {
    const send = (reply: Uint8Array): void => this.#send(reply);
    this.#negotiation = new Negotiation(directory, options, secure, send);
    if (resume === null) this.#send(replies.greeting(handshakeFlags));
    else this.#receivedClientFlags(resume.clientFlags);
  }

  get state(): HandshakeState {
    return this.#state;
  }

  /** Not null in state 'transmission'. */
  get outcome(): HandshakeOutcome | null {
    return this.#negotiation.outcome;
  }

  /** Why it ended, if that was the peer's fault; for the log. */
  get failure(): string | null {
    return this.#failure;
  }

  /**
   * Takes bytes `from` to `to` of a chunk and keeps none of its memory. Returns how many it took:
   * all of them while haggling goes on, otherwise those up to the end of the last option.
   */
  push(chunk: Uint8Array, from: number, to: number): number {
    assert(from >= 0 && from <= to && to <= chunk.length, 'a range lies in its chunk');
    let at = from;
    while (this.#state === 'haggling') {
      const taken = Math.min(this.#wanted, to - at);
      if (this.#into !== null) {
        this.#into.set(chunk.subarray(at, at + taken), this.#into.length - this.#wanted);
      }
      at += taken;
      this.#wanted -= taken;
      if (this.#wanted > 0) break;
      this.#received();
    }
    return at - from;
  }

  /** Replies to be sent, in order; they are the caller's now. */
  takeOutput(): Uint8Array[] {
    const output = this.#output;
    this.#output = [];
    this.#outputBytes = 0;
    return output;
  }

  /** The next option is answered with ERR_SHUTDOWN and this text, and ends the handshake. */
  refuse(text: string): void {
    this.#closing = text;
  }

  /** The part that was wanted is whole: sets up the next one, or ends. */
  #received(): void {
    const bytes = this.#into ?? noData;
    switch (this.#part) {
      case 'client flags':
        this.#receivedClientFlags(bytes.readUInt32BE(0));
        break;
      case 'option header':
        this.#receivedOptionHeader(bytes);
        break;
      case 'option data':
        this.#want('option header', this.#header.length, this.#header);
        this.#receivedOption(this.#option, bytes);
        break;
    }
  }

  #want(part: Part, bytes: number, into: Buffer | null): void {
    this.#part = part;
    this.#wanted = bytes;
    this.#into = into;
  }

  #receivedClientFlags(flags: number): void {
    if ((flags & ~handshakeFlags) !== 0) {
      this.#fail(`client flags: found 0x${flags.toString(16)}, wanted only 0x${handshakeFlags}`);
      return;
    }
    this.#clientFlags = flags;
    this.#want('option header', this.#header.length, this.#header);
  }

  #receivedOptionHeader(header: Buffer): void {
    const high = header.readUInt32BE(0);
    const low = header.readUInt32BE(4);
    if (high !== nbd.IHAVEOPT_HIGH || low !== nbd.IHAVEOPT_LOW) {
      const found = header.toString('hex', 0, 8);
      this.#fail(`option magic: found 0x${found}, wanted 0x49484156454f5054`);
      return;
    }
    const option = header.readUInt32BE(8);
    const length = header.readUInt32BE(12);
    this.#options++;
    const failure = this.#failureByHeader(option, length);
    if (failure !== null) {
      this.#fail(`${optionName(option)}: ${failure}`);
      return;
    }
    this.#option = option;
    this.#refusal = this.#refusalByHeader(option, length);
    const isKept = this.#refusal === null && option !== nbd.OPT_ABORT;
    this.#want('option data', length, isKept ? Buffer.alloc(length) : null);
  }

  /** Why the connection cannot go on after such an option, else null. */
  #failureByHeader(option: number, length: number): string | null {
    // The client is to wait for the final reply to an option. One that sends options ahead is put
    // up with until the replies that it does not take become too many.
    if (this.#outputBytes > limits.handshakeOutputBytes) {
      return `found ${this.#outputBytes} bytes of earlier replies not taken`;
    }
    if (this.#options > limits.handshakeOptions) {
      return `found more options than ${limits.handshakeOptions}`;
    }
    // Option replies belong to the fixed newstyle. The protocol lets a server send them to a client
    // that did not ask for it, but such a client knows only EXPORT_NAME and may not understand an
    // answer to anything else: the plain newstyle's way to refuse is to disconnect.
    if ((this.#clientFlags & nbd.FLAG_FIXED_NEWSTYLE) === 0 && option !== nbd.OPT_EXPORT_NAME) {
      return 'found client flags without fixed newstyle, wanted it set';
    }
    // EXPORT_NAME cannot be refused with a reply, so there is nothing to wait for.
    const most = option === nbd.OPT_EXPORT_NAME ? limits.stringBytes : limits.optionBytesFatal;
    return length > most ? `found ${length} bytes of data, wanted at most ${most}` : null;
  }

  /** The refusal of an option whatever its data says, else null. */
  #refusalByHeader(option: number, length: number): OptionRefusal | null {
    const refusal = this.#negotiation.notOffered(option);
    if (refusal !== null || length <= limits.optionBytes || option === nbd.OPT_ABORT) {
      return refusal;
    }
    const text = `found ${length} bytes of data, wanted at most ${limits.optionBytes}`;
    return new OptionRefusal(nbd.REP_ERR_TOO_BIG, text);
  }

  #receivedOption(option: number, data: Buffer): void {
    if (option === nbd.OPT_ABORT) {
      this.#send(replies.ack(option));
      this.#state = 'ended';
      return;
    }
    if (this.#closing !== null) {
      if (option !== nbd.OPT_EXPORT_NAME) {
        this.#send(replies.refusal(option, nbd.REP_ERR_SHUTDOWN, this.#closing));
      }
      this.#state = 'ended';
      return;
    }
    if (option === nbd.OPT_SET_META_CONTEXT) this.#negotiation.forgetContexts();
    try {
      if (this.#refusal !== null) throw this.#refusal;
      if (option === nbd.OPT_EXPORT_NAME) {
        const zeroes = (this.#clientFlags & nbd.FLAG_NO_ZEROES) === 0;
        this.#negotiation.exportName(data, zeroes);
      } else {
        this.#negotiation.carryOut(option, data);
      }
    } catch (error) {
      if (!(error instanceof OptionRefusal)) throw error;
      const text = `${optionName(option)}: ${error.message}`;
      if (option === nbd.OPT_EXPORT_NAME) this.#fail(text);
      else this.#send(replies.refusal(option, error.replyType, text));
    }
    if (this.#negotiation.outcome !== null) this.#state = 'transmission';
  }

  #send(bytes: Uint8Array): void {
    this.#output.push(bytes);
    this.#outputBytes += bytes.length;
  }

  #fail(reason: string): void {
    this.#failure = reason;
    this.#state = 'ended';
  }
}
