/**
 * The daemon's life: it starts, and serves until something ends it. That is a signal; the end of
 * its client (-s), of its command (--run) or of its parent (--exit-with-parent); or a failure.
 */

import type { Logger } from 'pino';
import { messageOf } from '../base/errors.js';
import { signalRepeatMilliseconds } from '../base/limits.js';
import { createLog, standardError } from '../control/log.js';
import type { DaemonOptions } from '../options.js';
import { ServedCommand } from './command.js';
import { Daemon } from './daemon.js';
import { watchParent } from './parent.js';

/** A failure at the start is one line and exit code 1. */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  const log = createLog(options.logLevel, process.stderr.isTTY === true, standardError);
  await new Life(options, log).run();
}

class Life {
  readonly #options: DaemonOptions;
  readonly #log: Logger;
  readonly #daemon: Daemon;
  #started: Promise<void> = Promise.resolve();
  #command: ServedCommand | null = null;
  #ending = false;
  #firstSignalAt: number | null = null;

  constructor(options: DaemonOptions, log: Logger) {
    this.#options = options;
    this.#log = log;
    this.#daemon = new Daemon(options, log);
  }

  async run(): Promise<void> {
    const { single, run, exitWithParent } = this.#options;
    this.#watch();
    if (exitWithParent) watchParent(() => this.#told({ reason: 'the parent has ended' }));
    this.#started = this.#daemon.start();
    try {
      await this.#started;
      if (this.#ending) return;
      if (run !== null) {
        this.#command = new ServedCommand(run, this.#daemon.variables);
        const status = await this.#command.ended;
        this.#command = null;
        this.#end({ reason: 'the command has ended', status }, status);
      } else if (single) {
        await this.#daemon.serveStdio();
        this.#end({ reason: 'the client has gone' }, 0);
      }
    } catch (error) {
      process.stderr.write(`mapperd: ${messageOf(error)}\n`);
      this.#daemon.exit(1);
    }
  }

  #watch(): void {
    process.on('exit', () => {
      this.#command?.abandon();
      this.#daemon.removeTraces();
    });
    process.on('uncaughtException', (error) => {
      this.#log.error({ err: error }, 'uncaught exception');
      this.#daemon.exit(1);
    });
    process.on('unhandledRejection', (reason) => {
      const err = reason instanceof Error ? reason : new Error(messageOf(reason));
      this.#log.error({ err }, 'unhandled rejection');
      this.#daemon.exit(1);
    });
    for (const signal of ['SIGTERM', 'SIGINT', 'SIGQUIT', 'SIGHUP'] as const) {
      process.on(signal, () => this.#signalled(signal));
    }
  }

  #signalled(signal: NodeJS.Signals): void {
    // A terminal sends these to the command as well, which has its own idea of what they mean.
    if (this.#command !== null && (signal === 'SIGINT' || signal === 'SIGQUIT')) return;
    const now = performance.now();
    if (this.#firstSignalAt !== null) {
      if (now - this.#firstSignalAt < signalRepeatMilliseconds) return;
      this.#log.warn({ signal }, 'second signal: ending at once');
      void this.#daemon.exitWhateverHangs(1);
      return;
    }
    this.#firstSignalAt = now;
    this.#told({ signal });
  }

  /** Somebody wants an end; a command's users are served until it has come to its own. */
  #told(why: object): void {
    if (this.#command === null) {
      this.#end(why, 0);
    } else {
      this.#log.info(why, 'telling the command to end');
      this.#command.terminate();
    }
  }

  /** In good order: what is in flight is finished. */
  #end(why: object, code: number): void {
    if (this.#ending) return;
    this.#ending = true;
    this.#log.info(why, 'ending');
    void this.#started
      .then(() => this.#daemon.stop())
      .then(
        () => this.#daemon.exit(code),
        (error) => {
          this.#log.error({ error: messageOf(error) }, 'ending failed');
          void this.#daemon.exitWhateverHangs(1);
        },
      );
  }
}
