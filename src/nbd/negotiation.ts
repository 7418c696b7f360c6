/**
 * What each option means: carries them out one at a time, remembers what was agreed on, and hands
 * out the replies. A refusal is thrown as OptionRefusal and becomes an error reply; it changes
 * nothing, but for SET_META_CONTEXT, which forgets the earlier set in any case.
 */

import { assert } from '../base/assert.js';
import * as nbd from './constants.js';
import { type ExportDirectory, type ExportInfo, transmissionFlags } from './export.js';
import { LISTED_ID, listContexts, type MetaContext, selectContexts } from './meta-context.js';
import {
  OptionReader,
  OptionRefusal,
  quoted,
  readInfoRequest,
  readMetaContextRequest,
} from './option.js';
import * as replies from './option-reply.js';

/** What was agreed on. */
export interface HandshakeOutcome {
  readonly exportInfo: ExportInfo;
  readonly structuredReplies: boolean;
  /** Contexts that BLOCK_STATUS answers with; empty: it is refused. */
  readonly contexts: readonly MetaContext[];
}

/** Options that are known and not offered, and why. */
const notOffered = new Map<number, string>([
  [nbd.OPT_PEEK_EXPORT, 'withdrawn from the protocol'],
  [nbd.OPT_STARTTLS, 'not supported, no tls is configured'],
  [nbd.OPT_EXTENDED_HEADERS, 'not supported, requests have compact headers'],
]);

const offered = new Set<number>([
  nbd.OPT_EXPORT_NAME,
  nbd.OPT_ABORT,
  nbd.OPT_LIST,
  nbd.OPT_INFO,
  nbd.OPT_GO,
  nbd.OPT_STRUCTURED_REPLY,
  nbd.OPT_LIST_META_CONTEXT,
  nbd.OPT_SET_META_CONTEXT,
]);

/** The refusal of an option that is not offered at all, else null. */
export function unsupported(option: number): OptionRefusal | null {
  if (offered.has(option)) return null;
  return new OptionRefusal(nbd.REP_ERR_UNSUP, notOffered.get(option) ?? 'not known');
}

export class Negotiation {
  readonly #directory: ExportDirectory;
  readonly #send: (reply: Uint8Array) => void;

  #structuredReplies = false;
  /** The contexts of the last SET_META_CONTEXT, and the canonical name of the export it was for. */
  #contexts: readonly MetaContext[] = [];
  #contextsFor: string | null = null;
  #outcome: HandshakeOutcome | null = null;

  /** `send` takes each reply as it is made. */
  constructor(directory: ExportDirectory, send: (reply: Uint8Array) => void) {
    this.#directory = directory;
    this.#send = send;
  }

  /** Not null once GO or EXPORT_NAME was granted; nothing is carried out after that. */
  get outcome(): HandshakeOutcome | null {
    return this.#outcome;
  }

  /** A SET_META_CONTEXT has come: it replaces the earlier set even if it is refused. */
  forgetContexts(): void {
    this.#contexts = [];
    this.#contextsFor = null;
  }

  /** EXPORT_NAME; `zeroes` are those that an old client wants behind the answer. */
  exportName(data: Uint8Array, zeroes: boolean): void {
    const info = this.#find(new OptionReader(data).text(data.length, 'export name'));
    const flags = transmissionFlags(info, this.#structuredReplies);
    this.#send(replies.exportNameAnswer(info.sizeBytes, flags, zeroes));
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
    const flags = transmissionFlags(info, this.#structuredReplies);
    this.#send(replies.infoExport(option, info.sizeBytes, flags));
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
    if (this.#structuredReplies) {
      throw new OptionRefusal(nbd.REP_ERR_INVALID, 'structured replies are negotiated already');
    }
    this.#structuredReplies = true;
    this.#send(replies.ack(nbd.OPT_STRUCTURED_REPLY));
  }

  #listMetaContext(data: Uint8Array): void {
    const option = nbd.OPT_LIST_META_CONTEXT;
    const { exportName, queries } = readMetaContextRequest(data);
    this.#find(exportName);
    for (const context of listContexts(queries)) {
      this.#send(replies.metaContext(option, LISTED_ID, context.name));
    }
    this.#send(replies.ack(option));
  }

  #setMetaContext(data: Uint8Array): void {
    const option = nbd.OPT_SET_META_CONTEXT;
    if (!this.#structuredReplies) {
      throw new OptionRefusal(nbd.REP_ERR_INVALID, 'wanted structured replies negotiated first');
    }
    const { exportName, queries } = readMetaContextRequest(data);
    const info = this.#find(exportName);
    this.#contexts = selectContexts(queries);
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

  #choose(info: ExportInfo): void {
    this.#outcome = {
      exportInfo: info,
      structuredReplies: this.#structuredReplies,
      // Contexts count only for the export they were selected for.
      contexts: this.#contextsFor === info.name ? this.#contexts : [],
    };
  }
}
