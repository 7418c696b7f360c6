/**
 * Certificates or pre-shared keys, as their files are now. Each connection looks whether they have
 * changed, so that a renewed certificate, a new list of revoked ones or another user's key counts
 * from the next connection on. What cannot be used (a certificate that has been replaced, its key
 * not yet) is told in the log, and what was read before stays in use.
 */

import type { TlsOptions as ServerOptions } from 'node:tls';
import { messageOf } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { Acceptors } from './acceptors.js';
import { certificateFiles, findFolder, loadCertificates, usualFolders } from './certificates.js';
import { stampOf } from './credential-file.js';
import { loadPsk } from './psk.js';
import type { TlsOptions } from './tls-options.js';

export class Credentials {
  readonly #files: readonly string[];
  readonly #load: () => Promise<ServerOptions>;
  readonly #log: Log;
  #acceptors!: Acceptors;
  /** What the files were when they were last read, usable or not. */
  #stamps: string | null = null;
  /** The look at the files that is under way. */
  #looking: Promise<Acceptors> | null = null;

  private constructor(files: readonly string[], load: () => Promise<ServerOptions>, log: Log) {
    this.#files = files;
    this.#load = load;
    this.#log = log;
  }

  /** Throws MapperError when they cannot be used. */
  static async open(tls: TlsOptions, log: Log): Promise<Credentials> {
    const credentials = await Credentials.#of(tls, log);
    await credentials.#read(await credentials.#currentStamps());
    return credentials;
  }

  static async #of(tls: TlsOptions, log: Log): Promise<Credentials> {
    const { psk } = tls;
    if (psk !== null) return new Credentials([psk], () => loadPsk(psk), log);
    const folder = tls.certificates ?? (await findFolder(usualFolders()));
    const load = (): Promise<ServerOptions> => loadCertificates(folder, tls.verifyPeer, log);
    return new Credentials(certificateFiles(folder), load, log);
  }

  /** For a connection that begins now; never rejects. */
  current(): Promise<Acceptors> {
    this.#looking ??= this.#look().finally(() => {
      this.#looking = null;
    });
    return this.#looking;
  }

  async #look(): Promise<Acceptors> {
    const stamps = await this.#currentStamps();
    // A daemon that was started as root and is another user now may not see root's files.
    if (stamps !== null && stamps !== this.#stamps) {
      try {
        await this.#read(stamps);
        this.#log.info({ files: this.#files }, 'tls: files have changed and were read again');
      } catch (error) {
        const text = 'tls: files have changed and cannot be used, those before stay in use';
        this.#log.error({ error: messageOf(error) }, text);
      }
    }
    return this.#acceptors;
  }

  /** The stamps are those from before the reading, so that a change meanwhile is seen. */
  async #read(stamps: string | null): Promise<void> {
    this.#stamps = stamps;
    this.#acceptors = new Acceptors(await this.#load());
  }

  /** null: somebody may have changed them, and it cannot be seen. */
  async #currentStamps(): Promise<string | null> {
    const stamps = await Promise.all(this.#files.map(stampOf));
    return stamps.includes(null) ? null : stamps.join(' ');
  }
}
