/**
 * The server's side of the handshake up to STARTTLS, without I/O. Two modes:
 *
 *   require   every option is answered here: STARTTLS with ACK, ABORT with ACK, EXPORT_NAME by
 *             disconnecting, and all others with ERR_TLS_REQD.
 *   on        STARTTLS is looked for and all else is the queue's: from the first other option on,
 *             what the client sends is handed out to be forwarded, option by option, until
 *             transmission begins.
 *
 * Both keep one thing: of what came before STARTTLS nothing is left but the client flags. Nothing
 * may come right behind it either, since the client is to wait for the answer: bytes that are there
 * already have been put there by somebody who wants them to be taken for what comes out of TLS.
 *
 *   haggling --first option but STARTTLS, mode on--> passing --no IHAVEOPT--> plain
 *       |                                               |
 *       '-----------------STARTTLS-----------------> starttls            (or anywhere: ended)
 */

import { Buffer } from 'node:buffer';
import * as limits from '../base/limits.js';
import * as nbd from '../nbd/constants.js';
import { optionName } from '../nbd/option.js';
import * as replies from '../nbd/option-reply.js';

/**
 * 'haggling': the client is answered here. 'passing': all that is handed out is the queue's, and
 * the queue's answers are the client's. 'plain': so is everything from now on. 'starttls': the
 * client waits for `acknowledgement`, then TLS begins. 'ended': the replies are to be sent, then
 * the connection is to be closed.
 */
export type BeforeTlsState = 'haggling' | 'passing' | 'plain' | 'starttls' | 'ended';

type Part = 'client flags' | 'option header' | 'option data';

const handshakeFlags = nbd.FLAG_FIXED_NEWSTYLE | nbd.FLAG_NO_ZEROES;

export const greeting: Uint8Array = replies.greeting(handshakeFlags);
/** What a client in state 'starttls' waits for. */
export const acknowledgement: Uint8Array = replies.ack(nbd.OPT_STARTTLS);

const tlsRequired = 'tls is required here, ask for it with NBD_OPT_STARTTLS first';

export class BeforeTls {
  readonly #required: boolean;
  #state: BeforeTlsState = 'haggling';
  #failure: string | null = null;
  #clientFlags = 0;

  /** The part that is being received, its bytes still wanted, and where in `#header` they go. */
  #part: Part = 'client flags';
  #wanted = nbd.CLIENT_FLAGS_BYTES;
  #have = 0;
  readonly #header = Buffer.alloc(nbd.OPTION_HEADER_BYTES);
  /** The option whose data is being received, and how much of it there is. */
  #option = 0;
  #optionBytes = 0;
  #options = 0;

  #replies: Uint8Array[] = [];
  #forwarded: Uint8Array[] = [];

  constructor(mode: 'on' | 'require') {
    this.#required = mode === 'require';
  }

  get state(): BeforeTlsState {
    return this.#state;
  }

  /** As received, once the client has sent any option. */
  get clientFlags(): number {
    return this.#clientFlags;
  }

  /** Why it ended, if that was the peer's fault; for the log. */
  get failure(): string | null {
    return this.#failure;
  }

  /** Takes a whole chunk, views of which it may hand out to be forwarded. */
  push(chunk: Uint8Array): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#state === 'ended') return;
      if (this.#state === 'starttls') {
        this.#fail('found bytes behind NBD_OPT_STARTTLS, wanted none');
        return;
      }
      if (this.#state === 'plain') {
        this.#forwarded.push(chunk.subarray(at));
        return;
      }
      const taken = chunk.subarray(at, at + this.#wanted);
      at += taken.length;
      this.#wanted -= taken.length;
      if (this.#part === 'option data') {
        if (this.#state === 'passing') this.#forwarded.push(taken);
      } else {
        this.#header.set(taken, this.#have);
        this.#have += taken.length;
      }
      if (this.#wanted === 0) this.#received();
    }
  }

  /** To be sent to the client, in order. */
  takeReplies(): Uint8Array[] {
    const taken = this.#replies;
    this.#replies = [];
    return taken;
  }

  /** To be sent to the queue, in order. */
  takeForwarded(): Uint8Array[] {
    const taken = this.#forwarded;
    this.#forwarded = [];
    return taken;
  }

  #want(part: Part, bytes: number): void {
    this.#part = part;
    this.#wanted = bytes;
    this.#have = 0;
  }

  #received(): void {
    if (this.#part === 'client flags') this.#receivedClientFlags();
    else if (this.#part === 'option header') this.#receivedHeader();
    else this.#receivedOption();
  }

  #receivedClientFlags(): void {
    const flags = this.#header.readUInt32BE(0);
    if ((flags & ~handshakeFlags) !== 0) {
      this.#fail(`client flags: found 0x${flags.toString(16)}, wanted only 0x${handshakeFlags}`);
      return;
    }
    this.#clientFlags = flags;
    this.#want('option header', nbd.OPTION_HEADER_BYTES);
  }

  #receivedHeader(): void {
    const header = this.#header;
    const isOption =
      header.readUInt32BE(0) === nbd.IHAVEOPT_HIGH && header.readUInt32BE(4) === nbd.IHAVEOPT_LOW;
    if (!isOption) {
      // Behind an option that was granted this is transmission; if not, the queue will say so.
      if (this.#state === 'passing') this.#pass('plain');
      else this.#fail(`option magic: found 0x${header.toString('hex', 0, 8)}`);
      return;
    }
    this.#option = header.readUInt32BE(8);
    this.#optionBytes = header.readUInt32BE(12);
    this.#options++;
    const isFixed = (this.#clientFlags & nbd.FLAG_FIXED_NEWSTYLE) !== 0;
    const isStart = this.#option === nbd.OPT_STARTTLS && this.#optionBytes === 0 && isFixed;
    if (isStart) {
      this.#state = 'starttls';
      return;
    }
    if (!this.#required && (this.#state === 'passing' || this.#option !== nbd.OPT_STARTTLS)) {
      this.#pass('passing');
      this.#wantData();
      return;
    }
    const failure = this.#failureByHeader(isFixed);
    if (failure !== null) this.#fail(`${optionName(this.#option)}: ${failure}`);
    else this.#wantData();
  }

  #wantData(): void {
    this.#want('option data', this.#optionBytes);
    if (this.#optionBytes === 0) this.#receivedOption();
  }

  /** The header that has been withheld goes on its way. */
  #pass(state: 'passing' | 'plain'): void {
    this.#state = state;
    this.#forwarded.push(Buffer.from(this.#header));
  }

  /** Why the connection cannot go on after such an option, else null. */
  #failureByHeader(isFixed: boolean): string | null {
    if (this.#option === nbd.OPT_EXPORT_NAME) return tlsRequired;
    if (!isFixed) return 'found client flags without fixed newstyle, wanted it set';
    if (this.#options > limits.handshakeOptions) {
      return `found more options than ${limits.handshakeOptions}`;
    }
    const most = limits.optionBytesFatal;
    const found = this.#optionBytes;
    return found > most ? `found ${found} bytes of data, wanted at most ${most}` : null;
  }

  #receivedOption(): void {
    this.#want('option header', nbd.OPTION_HEADER_BYTES);
    if (this.#state === 'passing') return;
    const option = this.#option;
    if (option === nbd.OPT_ABORT) {
      this.#replies.push(replies.ack(option));
      this.#state = 'ended';
    } else if (option === nbd.OPT_STARTTLS) {
      this.#refuse(nbd.REP_ERR_INVALID, `found ${this.#optionBytes} bytes of data, wanted none`);
    } else {
      this.#refuse(nbd.REP_ERR_TLS_REQD, tlsRequired);
    }
  }

  #refuse(type: number, text: string): void {
    const option = this.#option;
    this.#replies.push(replies.refusal(option, type, `${optionName(option)}: ${text}`));
  }

  #fail(reason: string): void {
    this.#failure = reason;
    this.#state = 'ended';
  }
}
