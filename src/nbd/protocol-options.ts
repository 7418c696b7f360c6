/** What of the protocol a daemon offers. All of it, unless somebody wants to test old clients. */

import { handshakeMilliseconds } from '../base/limits.js';

export interface ProtocolOptions {
  readonly structuredReplies: boolean;
  readonly extendedHeaders: boolean;
  /** LIST_META_CONTEXT and SET_META_CONTEXT. */
  readonly metaContexts: boolean;
  /** From the connection to the end of the handshake; 0: for ever. */
  readonly handshakeMilliseconds: number;
}

export const wholeProtocol: ProtocolOptions = {
  structuredReplies: true,
  extendedHeaders: true,
  metaContexts: true,
  handshakeMilliseconds,
};
