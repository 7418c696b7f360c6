/**
 * X.509 as nbdkit and QEMU lay it out in a folder:
 *
 *   ca-cert.pem       who signs the clients' certificates; needed only if they are asked for them
 *   server-cert.pem   our certificate, and behind it those between it and the CA
 *   server-key.pem    its key, without a passphrase
 *   ca-crl.pem        certificates that do not count any more; optional
 */

import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { createSecureContext, type TlsOptions as ServerOptions } from 'node:tls';
import { EINVAL, ENOENT } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import type { Log } from '../base/log.js';
import { type CredentialFile, readCredential, readOptional, stampOf } from './credential-file.js';

const authorityName = 'ca-cert.pem';
const certificateName = 'server-cert.pem';
const keyName = 'server-key.pem';
const revokedName = 'ca-crl.pem';

/** Where nbdkit looks when nothing is said. */
export function usualFolders(uid = process.geteuid?.() ?? 0, home = homedir()): string[] {
  if (uid === 0) return ['/etc/pki/nbdkit'];
  return [join(home, '.pki/nbdkit'), join(home, '.config/pki/nbdkit')];
}

/** The first of the folders that has a server's certificate or key. Throws MapperError ENOENT. */
export async function findFolder(folders: readonly string[]): Promise<string> {
  for (const folder of folders) {
    const stamps = await Promise.all(
      [certificateName, keyName].map((name) => stampOf(join(folder, name))),
    );
    if (stamps.some((stamp) => stamp !== 'none')) return folder;
  }
  const places = folders.map((folder) => `"${folder}"`).join(' and ');
  const text = `tls certificates: found no ${certificateName} in ${places}`;
  throw new MapperError(ENOENT, `${text} (--tls-certificates DIR names another folder)`);
}

/** The files of which a change counts. */
export function certificateFiles(folder: string): string[] {
  const names = [authorityName, certificateName, keyName, revokedName];
  return names.map((name) => join(folder, name));
}

/** What a server needs to begin TLS with certificates. Throws MapperError. */
export async function loadCertificates(
  folder: string,
  verifyPeer: boolean,
  log: Log,
): Promise<ServerOptions> {
  const path = (name: string): string => join(folder, name);
  const certificate = await readCredential(path(certificateName), 'tls certificate', false);
  const key = await readCredential(path(keyName), 'tls key', true);
  const what = 'tls certificate authority';
  const authority = verifyPeer
    ? await readCredential(path(authorityName), what, false)
    : await readOptional(path(authorityName), what);
  const revoked = await readOptional(path(revokedName), 'tls revocation list');

  const own = parseCertificate(certificate, 'tls certificate');
  const privateKey = parseKey(key);
  if (!own.checkPrivateKey(privateKey)) {
    const text = `tls key "${key.path}": does not belong to certificate "${certificate.path}"`;
    throw new MapperError(EINVAL, text);
  }
  if (authority !== null) parseCertificate(authority, what);
  if (revoked !== null) checkRevoked(revoked);
  tellValidity(own, certificate.path, log);
  return {
    cert: certificate.bytes,
    key: key.bytes,
    ...(authority === null ? {} : { ca: authority.bytes }),
    // Without a client's certificate there is nothing to look up in it.
    ...(revoked === null || !verifyPeer ? {} : { crl: revoked.bytes }),
    requestCert: verifyPeer,
    rejectUnauthorized: verifyPeer,
  };
}

function parseCertificate({ path, bytes }: CredentialFile, what: string): X509Certificate {
  try {
    return new X509Certificate(bytes);
  } catch {
    throw new MapperError(EINVAL, `${what} "${path}": found no certificate in PEM`);
  }
}

function parseKey({ path, bytes }: CredentialFile): KeyObject {
  try {
    return createPrivateKey(bytes);
  } catch {
    const isLocked = bytes.includes('ENCRYPTED');
    const found = isLocked ? 'a key with a passphrase, wanted one without' : 'no key in PEM';
    throw new MapperError(EINVAL, `tls key "${path}": found ${found}`);
  }
}

function checkRevoked({ path, bytes }: CredentialFile): void {
  try {
    createSecureContext({ crl: bytes });
  } catch (error) {
    const text = `tls revocation list "${path}": found none in PEM (${messageOf(error)})`;
    throw new MapperError(EINVAL, text);
  }
}

/** Clients refuse a certificate that is not valid now: whoever reads the log should know first. */
function tellValidity(certificate: X509Certificate, path: string, log: Log): void {
  const { validFrom, validTo, subject } = certificate;
  const now = Date.now();
  const fields = { certificate: path, subject, validFrom, validTo };
  if (Date.parse(validTo) < now) log.warn(fields, 'tls certificate has expired');
  else if (Date.parse(validFrom) > now) log.warn(fields, 'tls certificate is not valid yet');
  else log.info(fields, 'tls certificate read');
}
