/**
 * A certificate authority for a test: a folder with the authority's own things, and folders for a
 * server and for clients as nbdkit, libnbd and QEMU want them. Made with GnuTLS's certtool.
 */

import { copyFileSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { succeed } from '../interop/programs.js';

export const authorityPrograms = ['certtool'] as const;

const issuerText = `cn = "mapperd test authority"
ca
cert_signing_key
crl_signing_key
expiration_days = 30
crl_next_update = 30
`;

const serverText = `cn = "localhost"
dns_name = "localhost"
ip_address = "127.0.0.1"
tls_www_server
encryption_key
signing_key
`;

export class Authority {
  readonly folder: string;
  #serial = 1;

  private constructor(folder: string) {
    this.folder = folder;
  }

  /** Makes it in that folder. */
  static async make(folder: string): Promise<Authority> {
    const authority = new Authority(folder);
    mkdirSync(folder, { recursive: true });
    await authority.#key('ca-key.pem');
    authority.#write('ca.info', issuerText);
    await authority.#certtool('--generate-self-signed', {
      'load-privkey': 'ca-key.pem',
      template: 'ca.info',
      outfile: 'ca-cert.pem',
    });
    return authority;
  }

  /** A server's folder: ca-cert.pem, server-cert.pem, server-key.pem. */
  async server(folder: string, validity = 'expiration_days = 30'): Promise<string> {
    await this.#issue(folder, 'server', `${serverText}${validity}\n`);
    return folder;
  }

  /** A client's folder: ca-cert.pem, client-cert.pem, client-key.pem. */
  async client(folder: string, name: string): Promise<string> {
    const text = `cn = "${name}"\ntls_www_client\nsigning_key\nexpiration_days = 30\n`;
    await this.#issue(folder, 'client', text);
    return folder;
  }

  /** Writes a list of revoked certificates, perhaps of none, to that path. */
  async revoke(path: string, ...certificates: readonly string[]): Promise<void> {
    await this.#certtool('--generate-crl', {
      'load-ca-privkey': 'ca-key.pem',
      'load-ca-certificate': 'ca-cert.pem',
      template: 'ca.info',
      ...Object.fromEntries(certificates.map((certificate) => ['load-certificate', certificate])),
      outfile: path,
    });
  }

  async #issue(folder: string, what: 'server' | 'client', text: string): Promise<void> {
    mkdirSync(folder, { recursive: true });
    copyFileSync(join(this.folder, 'ca-cert.pem'), join(folder, 'ca-cert.pem'));
    const info = this.#write('one.info', `serial = ${++this.#serial}\n${text}`);
    const key = join(folder, `${what}-key.pem`);
    await this.#key(key);
    await this.#certtool('--generate-certificate', {
      'load-ca-privkey': 'ca-key.pem',
      'load-ca-certificate': 'ca-cert.pem',
      'load-privkey': key,
      template: info,
      outfile: join(folder, `${what}-cert.pem`),
    });
  }

  /** certtool gives it mode 0600. */
  async #key(path: string): Promise<void> {
    await this.#certtool('--generate-privkey', { 'key-type': 'ecdsa', outfile: path });
  }

  #write(name: string, text: string): string {
    const path = join(this.folder, name);
    writeFileSync(path, text);
    return path;
  }

  async #certtool(what: string, options: Readonly<Record<string, string>>): Promise<void> {
    const words = Object.entries(options).map(([name, value]) => `--${name}=${value}`);
    await succeed('certtool', [what, ...words], { directory: this.folder });
  }
}
