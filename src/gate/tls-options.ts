/** TLS as the command line asks for it, in nbdkit's words. */
export interface TlsOptions {
  /** off: not offered. on: who asks for it gets it. require: nothing else is served. */
  readonly mode: 'off' | 'on' | 'require';
  /** Folder with ca-cert.pem, server-cert.pem, server-key.pem, perhaps ca-crl.pem; null: usual. */
  readonly certificates: string | null;
  /** File with lines `user:hexkey`; null: certificates are used. */
  readonly psk: string | null;
  /** Clients must show a certificate that our CA has signed. */
  readonly verifyPeer: boolean;
}
