/**
 * Tells the service manager how we are (sd_notify: systemd's Type=notify). A message is lines of
 * KEY=VALUE in one datagram to the unix socket that NOTIFY_SOCKET names; a name that begins with @
 * is an abstract one.
 *
 * Node has no unix datagrams. Where koffi is, we make the socket ourselves, so that the message
 * comes from this very process, as NotifyAccess=main wants it. Otherwise the systemd-notify program
 * is run; it is a process of its own, whose messages count with NotifyAccess=all.
 */

import { spawn } from 'node:child_process';
import { writeSync } from 'node:fs';
import type { Logger } from 'pino';
import { messageOf } from '../base/errors.js';
import { notifyMilliseconds } from '../base/limits.js';

const variable = 'NOTIFY_SOCKET';

/** Sends one message; throws or rejects if it cannot. */
export type NotifyWay = (text: string) => void | Promise<void>;

export class Notifier {
  readonly #way: NotifyWay;
  readonly #log: Logger;

  /**
   * Takes the variable out of the environment, so that no child process speaks in our name, and
   * connects as who we are now. Null: nobody wants to be told.
   */
  static async open(environment: NodeJS.ProcessEnv, log: Logger): Promise<Notifier | null> {
    const path = environment[variable];
    delete environment[variable];
    if (path === undefined || path === '') return null;
    try {
      return new Notifier(await datagrams(path), log);
    } catch (error) {
      log.debug({ error: messageOf(error) }, 'service manager is told by systemd-notify');
      return new Notifier(program(path), log);
    }
  }

  constructor(way: NotifyWay, log: Logger) {
    this.#way = way;
    this.#log = log;
  }

  /** Clients can connect; `status` is for people. */
  ready(status: string): Promise<void> {
    return this.#tell(`STATUS=${status}\nREADY=1`);
  }

  stopping(status: string): Promise<void> {
    return this.#tell(`STATUS=${status}\nSTOPPING=1`);
  }

  /** Never fails: a manager that cannot be told does what it does without. */
  async #tell(text: string): Promise<void> {
    try {
      await this.#way(text);
    } catch (error) {
      this.#log.warn({ error: messageOf(error) }, 'service manager cannot be told');
    }
  }
}

/** Loaded only now: few are started by a service manager. */
async function datagrams(path: string): Promise<NotifyWay> {
  const { datagramSocketTo } = await import('../engine/uring/datagram.js');
  const fd = await datagramSocketTo(path.replace(/^@/, '\0'));
  return (text) => {
    writeSync(fd, text);
  };
}

/** The systemd-notify program, for one message each time. */
export function program(path: string): NotifyWay {
  return (text) =>
    new Promise((resolve, reject) => {
      const child = spawn('systemd-notify', [`--pid=${process.pid}`, ...text.split('\n')], {
        env: { ...process.env, [variable]: path },
        stdio: 'ignore',
        timeout: notifyMilliseconds,
      });
      child.once('error', reject);
      child.once('exit', (code, signal) => {
        if (code === 0) resolve();
        else reject(new Error(`systemd-notify ended with ${signal ?? `code ${code}`}`));
      });
    });
}
