/** A listening socket that somebody else has made, as engines are given one by their number. */

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';
import type { ListenAddress } from '../../src/engine/engine.js';

const owner = fileURLToPath(new URL('socket-owner.js', import.meta.url));

export class InheritedSocket {
  /** A descriptor of this process. Nobody else listens there before `wakeOwner`. */
  readonly fd: number;
  /** Where clients reach it. */
  readonly address: ListenAddress;
  readonly #child: ChildProcess;

  static async make(t: Test, wanted: ListenAddress): Promise<InheritedSocket> {
    const { NODE_OPTIONS: _hooks, ...env } = process.env;
    const stdio = ['pipe', 'inherit', 'inherit', 'ipc'] as const;
    const child = fork(owner, [JSON.stringify(wanted)], { env, execArgv: [], stdio: [...stdio] });
    t.teardown(() => child.kill('SIGKILL'));
    const [message, handle] = (await once(child, 'message')) as [unknown, { fd: number }];
    const { address } = message as { address: string | { port: number } };
    const port = typeof address === 'string' ? 0 : address.port;
    const real = wanted.kind === 'tcp' ? { ...wanted, port } : wanted;
    return new InheritedSocket(child, handle.fd, real);
  }

  private constructor(child: ChildProcess, fd: number, address: ListenAddress) {
    this.#child = child;
    this.fd = fd;
    this.address = address;
  }

  /** The owner accepts from now on; resolves when it has done so, of somebody who waits already. */
  async wakeOwner(): Promise<void> {
    const accepted = this.accepted();
    this.#child.stdin?.write('x');
    await accepted;
  }

  /** Resolves when the owner accepts the next connection. */
  async accepted(): Promise<void> {
    await once(this.#child, 'message');
  }
}
