/** Who is at the other end of a connection, as far as exports and the log need to know. */

export interface Peer {
  /** For the log: `127.0.0.1:40312`, `unix`, `stdin`. */
  readonly name: string;
  /** The numeric address it comes from; null: from this machine, over a unix socket or a pipe. */
  readonly host: string | null;
  /** TLS ends in this daemon and has begun. */
  readonly secure: boolean;
}

/** `host:port` or `[v6]:port`, as engines name TCP peers; all else comes from this machine. */
export function peerNamed(name: string): Peer {
  const match = /^(?:\[([0-9a-fA-F:.%a-z]+)\]|([0-9.]+)):[0-9]+$/.exec(name);
  return { name, host: match?.[1] ?? match?.[2] ?? null, secure: false };
}
