/**
 * The server's side of TLS handshakes, on connections that are there already. node:tls checks a
 * client's certificate only in a tls.Server and does not say which of its connections an event is
 * about. So each handshake has a server to itself, which does not listen: the connection is put
 * into it. To make one takes as long as a handshake (it reads the key), so they are kept for the
 * next one.
 */

import { constants } from 'node:crypto';
import type { Duplex } from 'node:stream';
import {
  createServer,
  type Server,
  type TlsOptions as ServerOptions,
  type TLSSocket,
} from 'node:tls';
import { EINVAL } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { gateAcceptors, timerMilliseconds } from '../base/limits.js';
import { quoted } from '../nbd/option.js';
import { strangers } from './psk.js';

/** Nobody resumes a session here: the certificate of a client is looked at each time. */
const secureOptions = constants.SSL_OP_NO_TICKET | constants.SSL_OP_NO_RENEGOTIATION;

export class Acceptors {
  readonly #options: ServerOptions;
  readonly #idle: Server[] = [];

  /** Throws MapperError when node:tls does not take the options. */
  constructor(options: ServerOptions) {
    this.#options = {
      ...options,
      minVersion: 'TLSv1.2',
      honorCipherOrder: true,
      secureOptions,
      // Whoever brings the connection watches the time.
      handshakeTimeout: timerMilliseconds,
    };
    try {
      this.#idle.push(createServer(this.#options));
    } catch (error) {
      throw new MapperError(EINVAL, `tls: ${messageOf(error)}`);
    }
  }

  /** Rejects with the reason when there is no TLS to be had with that peer. */
  accept(socket: Duplex): Promise<TLSSocket> {
    const server = this.#idle.pop() ?? createServer(this.#options);
    return new Promise((resolve, reject) => {
      const settle = (): void => {
        server.off('secureConnection', secured);
        server.off('tlsClientError', failed);
        if (this.#idle.length < gateAcceptors) this.#idle.push(server);
      };
      const secured = (secure: TLSSocket): void => {
        settle();
        resolve(secure);
      };
      const failed = (error: Error, secure: TLSSocket): void => {
        settle();
        reject(new MapperError(EINVAL, reasonOf(error, secure)));
      };
      server.on('secureConnection', secured);
      server.on('tlsClientError', failed);
      server.emit('connection', socket);
    });
  }
}

/** OpenSSL's errors begin with `80BC02B7AF7F0000:error:0A0000C1:SSL routines:function:`. */
function reasonOf(error: Error, secure: TLSSocket): string {
  // Only once a certificate was refused is there such an error, which Node types as if always.
  const refused = secure.authorizationError as unknown;
  if (refused instanceof Error || typeof refused === 'string') {
    return `client certificate refused: ${String(refused)}`;
  }
  const stranger = strangers.get(secure);
  if (stranger !== undefined) return `found user ${quoted(stranger)}, who has no pre-shared key`;
  const { code } = error as NodeJS.ErrnoException;
  if (code === 'ECONNRESET') return 'client has gone before it ended';
  const text = error.message.split('\n')[0] as string;
  return text.replace(/^[0-9A-F]+:error:[0-9A-F]+:SSL routines:\w*:(.*?)(:.*)?$/, '$1');
}
