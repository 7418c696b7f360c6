/**
 * The daemon, put together: state directory, queue thread, devices, control socket, listeners, and
 * their end in the reverse order. What it leaves in the file system (sockets, lock, pidfile) is
 * removed however it exits, except by SIGKILL.
 */

import { chmod, mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import type { Logger } from 'pino';
import { EEXIST, errnoOf } from './base/errno.js';
import { MapperError, messageOf } from './base/errors.js';
import { fillWarningPercent, signalRepeatMilliseconds } from './base/limits.js';
import { OwnedPath, removeStaleSocket } from './base/unix-socket.js';
import { packageVersion } from './base/version.js';
import { attachLines, nbdUri, quoteShell } from './control/attach.js';
import { Catalogue } from './control/catalogue.js';
import { controlMethods } from './control/commands.js';
import { defaultControlPath, embeddedControlPath } from './control/control-path.js';
import { firstSnapshot, firstVolume, makeFirstVolume } from './control/first-volume.js';
import { describeImage } from './control/image.js';
import { createLog, standardError } from './control/log.js';
import type { Version } from './control/messages.js';
import { PidFile } from './control/pidfile.js';
import { Regions } from './control/regions.js';
import { Rpc } from './control/rpc.js';
import { ControlServer } from './control/server.js';
import { Snapshots } from './control/snapshots.js';
import { StateDirectory, type StoredDevice } from './control/state.js';
import { StateLock } from './control/state-lock.js';
import type { ListenAddress } from './engine/engine.js';
import type { DaemonOptions } from './options.js';
import type { QueueEvent } from './queue/commands.js';
import { Queue } from './queue/queue.js';

/** Counts changes of the control protocol that a client must know of. */
const controlProtocol = 1;

/** Runs until a signal ends the process. A failure at the start is one line and exit code 1. */
export async function runDaemon(options: DaemonOptions): Promise<void> {
  const log = createLog(options.logLevel, process.stderr.isTTY === true, standardError);
  const daemon = new Daemon(options, log);
  process.on('exit', () => daemon.removeTraces());
  process.on('uncaughtException', (error) => {
    log.error({ err: error }, 'uncaught exception');
    daemon.exit(1);
  });
  process.on('unhandledRejection', (reason) => {
    const err = reason instanceof Error ? reason : new Error(messageOf(reason));
    log.error({ err }, 'unhandled rejection');
    daemon.exit(1);
  });
  const started = daemon.start();
  let firstSignalAt: number | null = null;
  const ended = (signal: string): void => {
    const now = performance.now();
    if (firstSignalAt !== null) {
      if (now - firstSignalAt < signalRepeatMilliseconds) return;
      log.warn({ signal }, 'second signal: ending at once');
      daemon.exit(1);
    }
    firstSignalAt = now;
    log.info({ signal }, 'ending');
    void started
      .then(() => daemon.stop())
      .then(
        () => daemon.exit(0),
        (error) => {
          log.error({ error: messageOf(error) }, 'ending failed');
          daemon.exit(1);
        },
      );
  };
  for (const signal of ['SIGTERM', 'SIGINT', 'SIGQUIT']) process.on(signal, () => ended(signal));
  try {
    await started;
  } catch (error) {
    process.stderr.write(`mapperd: ${messageOf(error)}\n`);
    daemon.exit(1);
  }
}

class Daemon {
  readonly #options: DaemonOptions;
  readonly #log: Logger;
  #lock: StateLock | null = null;
  #queue: Queue | null = null;
  #catalogue: Catalogue | null = null;
  #snapshots: Snapshots | null = null;
  #regions: Regions | null = null;
  #server: ControlServer | null = null;
  #socket: OwnedPath | null = null;
  #pidfile: PidFile | null = null;

  constructor(options: DaemonOptions, log: Logger) {
    this.#options = options;
    this.#log = log;
  }

  /** Serves when it resolves. Throws MapperError; then `exit` clears up. */
  async start(): Promise<void> {
    const options = this.#options;
    const commandLine = await this.#commandLineDevices();
    const state = options.state === null ? null : await this.#openState(options.state);
    const queue = await Queue.start(options.engine, {
      event: (event) => this.#event(event),
      failed: (error) => {
        this.#log.error({ err: error }, 'queue thread failed: nothing can be served any more');
        this.exit(1);
      },
    });
    this.#queue = queue;
    const catalogue = new Catalogue(queue, state, this.#log, options.readOnly);
    this.#catalogue = catalogue;
    const directory = state === null ? null : resolve(state.path);
    const snapshots = new Snapshots(queue, catalogue, directory, this.#log);
    this.#snapshots = snapshots;
    this.#regions = new Regions(queue, catalogue, this.#log);
    await this.#restore(catalogue, state, commandLine);
    snapshots.started();
    await queue.call('defaultExport', { name: this.#defaultExport(catalogue, commandLine) });
    const control = await this.#openControl(queue, catalogue, snapshots, this.#regions);
    const addresses = await this.#listen(queue);
    if (options.pidfile !== null) this.#pidfile = new PidFile(options.pidfile);
    const serving = addresses.map((address) => nbdUri(address, ''));
    const { engine, engineReason } = queue;
    this.#log.info({ serving, control, engine, reason: engineReason }, 'ready');
    if (options.embedded) this.#printAttachLines(catalogue, addresses, control);
  }

  /** Finishes and flushes what is in flight, answers the rest with ESHUTDOWN. */
  async stop(): Promise<void> {
    this.#server?.drain();
    await this.#queue?.call('shutdown', {});
    await this.#catalogue?.settled();
    // The last answers are written in the turns that follow.
    await new Promise((resolve) => setImmediate(resolve));
    this.#server?.close();
  }

  /** Ends the process at once. */
  exit(code: number): never {
    // The order to end reaches the thread before the first await; process.exit then waits for it.
    void this.#queue?.kill();
    process.exit(code);
  }

  /** Synchronous: the last thing that is done. */
  removeTraces(): void {
    this.#pidfile?.remove();
    this.#server?.removePath();
    this.#socket?.remove();
    this.#lock?.release();
  }

  /** What the empty export name means, if somebody has said so, or is new here. */
  #defaultExport(catalogue: Catalogue, commandLine: readonly StoredDevice[]): string | null {
    const { exportName, image, embedded } = this.#options;
    if (exportName !== null) return exportName;
    if (image !== null) return commandLine[0]?.name ?? null;
    return embedded && catalogue.names().includes(firstVolume) ? firstVolume : null;
  }

  async #commandLineDevices(): Promise<StoredDevice[]> {
    const { image, devices, exportName, readOnly } = this.#options;
    const all: StoredDevice[] = [];
    if (image !== null) {
      const { name, table, writable, cutBytes } = await describeImage(image);
      if (cutBytes > 0) {
        const text = 'image is no whole number of sectors: its last bytes are not served';
        this.#log.warn({ image, bytes: cutBytes }, text);
      }
      if (!writable && !readOnly) this.#log.warn({ image }, 'image is served read-only');
      all.push({ name: exportName ?? name, table, readOnly: !writable });
    }
    for (const { name, table } of devices) {
      if (all.some((other) => other.name === name)) {
        throw new MapperError(EEXIST, `device "${name}" is given twice`);
      }
      all.push({ name, table, readOnly: false });
    }
    return all;
  }

  async #openState(path: string): Promise<StateDirectory> {
    try {
      // Volumes may be in it: it is nobody else's.
      await mkdir(path, { mode: 0o700 });
      this.#log.info({ directory: path }, 'state directory made');
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code !== 'EEXIST') {
        throw new MapperError(errnoOf(code), `make state directory "${path}": ${messageOf(error)}`);
      }
    }
    this.#lock = await StateLock.take(path);
    const state = new StateDirectory(path);
    if (this.#options.embedded && (await makeFirstVolume(state))) {
      const devices = { device: firstVolume, snapshot: firstSnapshot };
      this.#log.info(devices, 'first volume made');
    }
    return state;
  }

  /** Broken files are told and left alone; a broken device of the command line is the user's. */
  async #restore(
    catalogue: Catalogue,
    state: StateDirectory | null,
    commandLine: readonly StoredDevice[],
  ): Promise<void> {
    const contents = (await state?.load()) ?? { devices: [], problems: [] };
    const { devices, problems: unread } = contents;
    const problems = await catalogue.restore(devices, unread, commandLine);
    for (const { file, name, text } of problems) {
      if (commandLine.some((device) => device.name === name)) {
        throw new MapperError(EEXIST, `device "${name}": ${text}`);
      }
      this.#log.error({ file: join(state?.path ?? '', file), device: name }, text);
    }
    if (catalogue.names().length === 0) {
      this.#log.warn({}, 'no devices: nothing is served until one is created');
    }
  }

  async #openControl(
    queue: Queue,
    catalogue: Catalogue,
    snapshots: Snapshots,
    regions: Regions,
  ): Promise<string | null> {
    const { control, embedded } = this.#options;
    if (control === 'none') return null;
    const version: Version = {
      name: 'mapperd',
      version: packageVersion(),
      protocol: controlProtocol,
      engine: queue.engine,
      engineReason: queue.engineReason,
      node: process.versions.node,
      pid: process.pid,
    };
    const methods = controlMethods({ queue, catalogue, snapshots, regions, version });
    const rpc = new Rpc(methods, this.#log);
    const listen = async (path: string): Promise<string> => {
      const server = new ControlServer(rpc, this.#log);
      const full = await server.listen(path);
      this.#server = server;
      return full;
    };
    try {
      return await listen(control ?? defaultControlPath());
    } catch (error) {
      if (embedded && control === null) return listen(embeddedControlPath);
      const advice =
        control === null ? ' (--control PATH chooses another, "none" does without)' : '';
      throw error instanceof MapperError
        ? new MapperError(error.errno, `control socket: ${error.message}${advice}`)
        : error;
    }
  }

  async #listen(queue: Queue): Promise<ListenAddress[]> {
    const { tcp, unix, embedded } = this.#options;
    const addresses: ListenAddress[] = [];
    const listen = async (address: ListenAddress): Promise<void> => {
      addresses.push((await queue.call('listen', { address })) as ListenAddress);
    };
    const path = unix ?? (embedded ? 'state/nbd.sock' : null);
    if (tcp !== null) await listen({ kind: 'tcp', ...tcp });
    if (path !== null) {
      await removeStaleSocket(path);
      await listen({ kind: 'unix', path });
      await chmod(path, 0o600);
      this.#socket = new OwnedPath(path);
    }
    return addresses;
  }

  #printAttachLines(
    catalogue: Catalogue,
    addresses: readonly ListenAddress[],
    control: string | null,
  ): void {
    const names = catalogue.names();
    const device = names.includes(firstVolume) ? firstVolume : names[0];
    if (device === undefined) return;
    const snapshot = names.includes(firstSnapshot) ? firstSnapshot : null;
    // Started from its source tree, nothing is in the path.
    const script = process.argv[1] ?? '';
    const command = script.endsWith('mapperd.js')
      ? `node ${quoteShell(script.replace(/mapperd\.js$/, 'mapperctl.js'))}`
      : 'mapperctl';
    const usual = control === null || control === defaultControlPath();
    const socket = usual ? '' : ` -c ${quoteShell(control)}`;
    // Nobody need read them.
    process.stdout.on('error', () => {});
    process.stdout.write(attachLines(device, snapshot, addresses, command + socket));
  }

  #event(event: QueueEvent): void {
    if (event.event === 'log') this.#log[event.level](event.fields, event.text);
    else if (event.event === 'target') this.#targetEvent(event);
    else this.#log.debug({ ...event, event: undefined }, event.event);
    this.#regions?.event(event);
    // Each of the regions that a target moves is nothing to tell: it is asked how far it is.
    if (event.event === 'target' && event.what === 'regions') return;
    this.#server?.publish(event);
    this.#snapshots?.event(event);
  }

  /** Bad news about a snapshot is worth a line, under the name that the device has now. */
  #targetEvent({ name, what, percent = 0 }: Extract<QueueEvent, { event: 'target' }>): void {
    const device = { device: name };
    if (what === 'fill') {
      const level = percent >= fillWarningPercent ? 'warn' : 'debug';
      this.#log[level]({ ...device, percent }, 'the COW of a snapshot fills up');
    } else if (what === 'regions') {
      this.#log.debug(device, 'regions are moved');
    } else if (what === 'merged') {
      // Its end is told when the origin has its table back.
      this.#log.debug(device, 'snapshot is merged');
    } else {
      this.#log.warn(device, bad[what]);
    }
  }
}

const bad = {
  invalid: 'snapshot is invalid: what it held is lost, remove it',
  overflow: 'snapshot has overflowed: its COW had no room left, remove it',
  'merge failed': 'merge has failed: what is left to be merged stays in the COW',
} as const;
