/**
 * What each option means: carries them out one at a time, remembers what was agreed on, and hands
 * out the replies. A refusal is thrown as OptionRefusal and becomes an error reply; it changes
 * nothing, but for SET_META_CONTEXT, which forgets the earlier set in any case.
 */

import { assert } from '../base/assert.js';
import * as nbd from './constants.js';
import { type ExportDirectory, type ExportInfo, transmissionFlags } from './export.js';
import {
  contextsOf,
  LISTED_ID,
  listContexts,
  type MetaContext,
  selectContexts,
} from './meta-context.js';
import {
  OptionReader,
  OptionRefusal,
  quoted,
  readInfoRequest,
  readMetaContextRequest,
} from './option.js';
import * as replies from './option-reply.js';
import type { ProtocolOptions } from './protocol-options.js';

/** What was agreed on. */
export interface HandshakeOutcome {
  readonly exportInfo: ExportInfo;
  /** Also with extended headers, which go further in the same direction. */
  readonly structuredReplies: boolean;
  readonly extendedHeaders: boolean;
  /** Contexts that BLOCK_STATUS answers with; empty: it is refused. */
  readonly contexts: readonly MetaContext[];
}

export class Negotiation {
  readonly #directory: ExportDirectory;
  readonly #options: ProtocolOptions;
  /** TLS has begun. */
  readonly #secure: boolean;
  readonly #send: (reply: Uint8Array) => void;

  #structuredReplies = false;
  #extendedHeaders = false;
  /** The contexts of the last SET_META_CONTEXT, and the canonical name of the export it was for. */
  #contexts: readonly MetaContext[] = [];
  #contextsFor: string | null = null;
  #outcome: HandshakeOutcome | null = null;

  /** `send` takes each reply as it is made. */
  constructor(
    directory: ExportDirectory,
    options: ProtocolOptions,
    secure: boolean,
    send: (reply: Uint8Array) => void,
  ) {
    this.#directory = directory;
    this.#options = options;
    this.#secure = secure;
    this.#send = send;
  }

  /** Not null once GO or EXPORT_NAME was granted; nothing is carried out after that. */
  get outcome(): HandshakeOutcome | null {
    return this.#outcome;
  }

  /** The refusal of an option that is not offered at all, else null. */
  notOffered(option: number): OptionRefusal | null {
    const { structuredReplies, extendedHeaders, metaContexts } = this.#options;
    switch (option) {
      case nbd.OPT_EXPORT_NAME:
      case nbd.OPT_ABORT:
      case nbd.OPT_LIST:
      case nbd.OPT_INFO:
      case nbd.OPT_GO:
        return null;
      case nbd.OPT_STRUCTURED_REPLY:
        return structuredReplies ? null : switchedOff();
      case nbd.OPT_EXTENDED_HEADERS:
        // They would bring structured replies with them.
        return structuredReplies && extendedHeaders ? null : switchedOff();
      case nbd.OPT_LIST_META_CONTEXT:
      case nbd.OPT_SET_META_CONTEXT:
        return metaContexts ? null : switchedOff();
      case nbd.OPT_STARTTLS:
        // Where TLS is to be had, it begins before a handshake comes here.
        return this.#secure
          ? new OptionRefusal(nbd.REP_ERR_INVALID, 'tls has begun already')
          : unsupported('not supported, no tls is configured or other options came first');
      case nbd.OPT_PEEK_EXPORT:
        return unsupported('withdrawn from the protocol');
      default:
        return unsupported('not known');
    }
  }

  /** A SET_META_CONTEXT has come: it replaces the earlier set even if it is refused. */
  forgetContexts(): void {
    this.#contexts = [];
    this.#contextsFor = null;
  }

  /** EXPORT_NAME; `zeroes` are those that an old client wants behind the answer. */
  exportName(data: Uint8Array, zeroes: boolean): void {
    if (this.#extendedHeaders) {
      throw new OptionRefusal(nbd.REP_ERR_INVALID, 'wanted GO, extended headers are negotiated');
    }
    const info = this.#find(new OptionReader(data).text(data.length, 'export name'));
    this.#send(replies.exportNameAnswer(info.sizeBytes, this.#flags(info), zeroes));
    this.#choose(info);
  }

  /** Any other option but ABORT, which ends the handshake. */
  carryOut(option: number, data: Uint8Array): void {
    switch (option) {
      case nbd.OPT_LIST:
        this.#list(data);
        break;
      case nbd.OPT_INFO:
      case nbd.OPT_GO:
        this.#infoOrGo(option, data);
        break;
      case nbd.OPT_STRUCTURED_REPLY:
        this.#structuredReply(data);
        break;
      case nbd.OPT_EXTENDED_HEADERS:
        this.#extended(data);
        break;
      case nbd.OPT_LIST_META_CONTEXT:
        this.#listMetaContext(data);
        break;
      case nbd.OPT_SET_META_CONTEXT:
        this.#setMetaContext(data);
        break;
      default:
        assert(false, 'an option that is offered is carried out');
    }
  }

  #list(data: Uint8Array): void {
    new OptionReader(data).end();
    for (const entry of this.#directory.list()) {
      this.#send(replies.server(nbd.OPT_LIST, entry));
    }
    this.#send(replies.ack(nbd.OPT_LIST));
  }

  #infoOrGo(option: number, data: Uint8Array): void {
    const { exportName, types } = readInfoRequest(data);
    const info = this.#find(exportName);
    this.#send(replies.infoExport(option, info.sizeBytes, this.#flags(info)));
    if (types.has(nbd.INFO_NAME)) {
      this.#send(replies.infoText(option, nbd.INFO_NAME, info.name));
    }
    if (types.has(nbd.INFO_DESCRIPTION) && info.description !== '') {
      this.#send(replies.infoText(option, nbd.INFO_DESCRIPTION, info.description));
    }
    // A minimum other than the protocol's default must be told to those who do not ask, too.
    if (types.has(nbd.INFO_BLOCK_SIZE) || info.blockBytesMin > 1) {
      this.#send(replies.infoBlockSize(option, info));
    }
    this.#send(replies.ack(option));
    if (option === nbd.OPT_GO) this.#choose(info);
  }

  #structuredReply(data: Uint8Array): void {
    new OptionReader(data).end();
    if (this.#extendedHeaders) {
      throw new OptionRefusal(nbd.REP_ERR_EXT_HEADER_REQD, 'extended headers are negotiated');
    }
    if (this.#structuredReplies) {
      throw new OptionRefusal(nbd.REP_ERR_INVALID, 'structured replies are negotiated already');
    }
    this.#structuredReplies = true;
    this.#send(replies.ack(nbd.OPT_STRUCTURED_REPLY));
  }

  #extended(data: Uint8Array): void {
    new OptionReader(data).end();
    if (this.#extendedHeaders) {
      throw new OptionRefusal(nbd.REP_ERR_INVALID, 'extended headers are negotiated already');
    }
    this.#extendedHeaders = true;
    this.#structuredReplies = true;
    this.#send(replies.ack(nbd.OPT_EXTENDED_HEADERS));
  }

  #listMetaContext(data: Uint8Array): void {
    const option = nbd.OPT_LIST_META_CONTEXT;
    const { exportName, queries } = readMetaContextRequest(data);
    const contexts = this.#contextsOf(this.#find(exportName));
    for (const context of listContexts(contexts, queries)) {
      this.#send(replies.metaContext(option, LISTED_ID, context.name));
    }
    this.#send(replies.ack(option));
  }

  #setMetaContext(data: Uint8Array): void {
    const option = nbd.OPT_SET_META_CONTEXT;
    if (!this.#structuredReplies) {
      const text = 'wanted structured replies or extended headers negotiated first';
      throw new OptionRefusal(nbd.REP_ERR_INVALID, text);
    }
    const { exportName, queries } = readMetaContextRequest(data);
    const info = this.#find(exportName);
    this.#contexts = selectContexts(this.#contextsOf(info), queries);
    this.#contextsFor = info.name;
    for (const context of this.#contexts) {
      this.#send(replies.metaContext(option, context.id, context.name));
    }
    this.#send(replies.ack(option));
  }

  #find(name: string): ExportInfo {
    const info = this.#directory.find(name);
    if (info !== null) return info;
    throw new OptionRefusal(
      nbd.REP_ERR_UNKNOWN,
      name === ''
        ? 'export "": found no default export, name one as in nbd://HOST/NAME (LIST has the names)'
        : `export ${quoted(name)}: found none of that name (LIST has the names)`,
    );
  }

  #contextsOf(info: ExportInfo): readonly MetaContext[] {
    return contextsOf(this.#directory.changeMaps(info.name));
  }

  /** Contexts count only for the export they were selected for. */
  #selectedFor(info: ExportInfo): readonly MetaContext[] {
    return this.#contextsFor === info.name ? this.#contexts : [];
  }

  /** Transmission flags, as of what has been negotiated by now. */
  #flags(info: ExportInfo): number {
    const flags = transmissionFlags(info, this.#structuredReplies);
    const payload = this.#extendedHeaders && this.#selectedFor(info).length > 0;
    return payload ? flags | nbd.FLAG_BLOCK_STATUS_PAYLOAD : flags;
  }

  #choose(info: ExportInfo): void {
    this.#outcome = {
      exportInfo: info,
      structuredReplies: this.#structuredReplies,
      extendedHeaders: this.#extendedHeaders,
      contexts: this.#selectedFor(info),
    };
  }
}

function unsupported(text: string): OptionRefusal {
  return new OptionRefusal(nbd.REP_ERR_UNSUP, text);
}

function switchedOff(): OptionRefusal {
  return unsupported('switched off in this server');
}
