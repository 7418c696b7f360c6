/**
 * The daemon, put together: state directory, queue thread, devices, control socket, listeners, and
 * their end in the reverse order. What it leaves in the file system (sockets, lock, pidfile) is
 * removed however it exits, except by SIGKILL.
 */

import { mkdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import type { AllowedPaths } from '../base/allowed-paths.js';
import { EEXIST, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { hangingMilliseconds } from '../base/limits.js';
import { packageVersion } from '../base/version.js';
import { localAddress, nbdUri } from '../control/attach.js';
import { Catalogue } from '../control/catalogue.js';
import { controlMethods, type Subscriber } from '../control/commands.js';
import { tcpPlaceText } from '../control/control-address.js';
import { defaultControlPath, embeddedControlPath } from '../control/control-path.js';
import { files } from '../control/files.js';
import { firstSnapshot, firstVolume, makeFirstVolume } from '../control/first-volume.js';
import { allowedFiles, lockedFiles } from '../control/guarded-files.js';
import { UploadRoom } from '../control/incoming.js';
import { standardOutput } from '../control/log.js';
import type { Version } from '../control/messages.js';
import { PidFile } from '../control/pidfile.js';
import { Regions } from '../control/regions.js';
import { Rpc } from '../control/rpc.js';
import { ControlServer } from '../control/server.js';
import { Snapshots } from '../control/snapshots.js';
import { StateDirectory, type StoredDevice } from '../control/state.js';
import { StateLock } from '../control/state-lock.js';
import { TcpAccess } from '../control/tcp-access.js';
import { readToken } from '../control/token.js';
import type { ListenAddress } from '../engine/engine.js';
import { Gate } from '../gate/gate.js';
import type { ControlTcp, DaemonOptions } from '../options.js';
import type { QueueEvent } from '../queue/commands.js';
import { Queue } from '../queue/queue.js';
import { allowedPathsOf } from './allowed.js';
import { commandLineDevices } from './devices.js';
import { exitAtOnce } from './exit-at-once.js';
import { firstLines } from './first-lines.js';
import { Listeners } from './listeners.js';
import { Notifier } from './notify.js';
import { Privileges } from './privileges.js';
import { endWithin } from './shutdown.js';
import { logTargetEvent } from './target-events.js';

/** Counts changes of the control protocol that a client must know of. */
const controlProtocol = 1;

export class Daemon {
  readonly #options: DaemonOptions;
  readonly #log: Logger;
  #notifier: Notifier | null = null;
  #privileges: Privileges | null = null;
  #lock: StateLock | null = null;
  #queue: Queue | null = null;
  #gate: Gate | null = null;
  #catalogue: Catalogue | null = null;
  #snapshots: Snapshots | null = null;
  #regions: Regions | null = null;
  /** On the unix socket, and over TCP. */
  readonly #servers: ControlServer[] = [];
  readonly #uploads = new UploadRoom();
  /** Where control over TCP is. */
  readonly #controlPlaces: string[] = [];
  #allowed: AllowedPaths | null = null;
  #listeners: Listeners | null = null;
  #pidfile: PidFile | null = null;

  constructor(options: DaemonOptions, log: Logger) {
    this.#options = options;
    this.#log = log;
  }

  /** Serves when it resolves. Throws MapperError; then `exit` clears up. */
  async start(): Promise<void> {
    const options = this.#options;
    this.#notifier = await Notifier.open(process.env, this.#log);
    this.#privileges = Privileges.resolve(options.user, options.group);
    this.#privileges?.assume();
    const commandLine = await commandLineDevices(options, this.#log);
    const state = options.state === null ? null : await this.#openState(options.state);
    const allowed = allowedPathsOf(options, commandLine);
    this.#allowed = allowed;
    // Our own program may be where the user cannot look: threads read it as they start.
    const queue = await this.#asRoot(() => this.#startQueue());
    const catalogue = new Catalogue(queue, state, this.#log, options.readOnly);
    this.#catalogue = catalogue;
    const directory = state === null ? null : resolve(state.path);
    const reached = allowed === null ? files : allowedFiles(files, allowed);
    const guarded = options.lock ? lockedFiles(reached, queue) : reached;
    const snapshots = new Snapshots(queue, catalogue, directory, this.#log, guarded);
    this.#snapshots = snapshots;
    this.#regions = new Regions(queue, catalogue, this.#log);
    await this.#restore(catalogue, state, commandLine);
    snapshots.started();
    await queue.call('defaultExport', { name: this.#defaultExport(catalogue, commandLine) });
    const control = await this.#bind(queue, catalogue, snapshots, this.#regions);
    this.#privileges?.drop();
    await this.#tellReady(catalogue, control);
  }

  #startQueue(): Promise<Queue> {
    const { engine, busyPoll, protocol, allow, lock, logLevel } = this.#options;
    const allowedPaths = this.#allowed?.roots ?? null;
    const start = { busyPoll, protocol, allow, lock, allowedPaths, logLevel };
    const listener = {
      event: (event: QueueEvent) => this.#event(event),
      failed: (error: Error) => {
        this.#log.error({ err: error }, 'queue thread failed: nothing can be served any more');
        this.exit(1);
      },
    };
    return Queue.start(engine, listener, start).then((queue) => {
      this.#queue = queue;
      return queue;
    });
  }

  /** Standard input and output; resolves when that client has gone. */
  async serveStdio(): Promise<void> {
    await this.#gate?.serveStdio();
  }

  /** What a command that is served is told, as nbdkit tells it: where to connect, and to what. */
  get variables(): Record<string, string> {
    const { tls, exportName } = this.#options;
    const addresses = (this.#listeners?.addresses ?? []).map(localAddress);
    const unix = addresses.find(({ kind }) => kind === 'unix');
    const tcp = addresses.find(({ kind }) => kind === 'tcp');
    // A program takes the way that has no network in it.
    const address = unix ?? tcp;
    const uri = address === undefined ? '' : nbdUri(address, exportName ?? '', tls);
    return {
      uri,
      nbd: uri,
      unixsocket: unix?.kind === 'unix' ? resolve(unix.path) : '',
      port: tcp?.kind === 'tcp' ? `${tcp.port}` : '',
      exportname: exportName ?? '',
      tls: { off: '', on: '1', require: '2' }[tls.mode],
      tls_certificates: tls.certificates ?? '',
      tls_psk: tls.psk ?? '',
    };
  }

  /**
   * Finishes and flushes what is in flight, ends the rest with ESHUTDOWN. Throws MapperError
   * ETIME when something hangs, which has been logged then.
   */
  async stop(): Promise<void> {
    void this.#notifier?.stopping('finishing what is in flight');
    for (const server of this.#servers) server.drain();
    const queue = this.#queue;
    const catalogue = this.#catalogue;
    if (queue !== null && catalogue !== null) {
      const ending = this.#finish(queue, catalogue);
      await endWithin(this.#options.shutdownMilliseconds, ending, queue, catalogue, this.#log);
    }
    // The last answers are written in the turns that follow.
    await new Promise((resolve) => setImmediate(resolve));
    for (const server of this.#servers) server.close();
  }

  async #finish(queue: Queue, catalogue: Catalogue): Promise<void> {
    const gateClosed = this.#gate?.close();
    await queue.call('shutdown', {});
    await gateClosed;
    await catalogue.settled();
  }

  /** Ends the process at once, even if its queue thread is in a system call that does not return. */
  async exitWhateverHangs(code: number): Promise<never> {
    const killed = this.#queue?.kill().then(() => true);
    const hangs = sleep(hangingMilliseconds, false);
    if ((await Promise.race([killed ?? true, hangs])) === true) process.exit(code);
    this.removeTraces();
    this.#log.error({}, 'the queue thread hangs in the system: ending without it');
    return exitAtOnce(code);
  }

  /** Ends the process at once. */
  exit(code: number): never {
    // The order to end reaches the thread before the first await; process.exit then waits for it.
    void this.#queue?.kill();
    process.exit(code);
  }

  /** Synchronous: the last thing that is done. */
  removeTraces(): void {
    this.#privileges?.raiseToExit();
    this.#pidfile?.remove();
    for (const server of this.#servers) server.removePath();
    this.#gate?.removeTraces();
    this.#listeners?.removeTraces();
    this.#lock?.release();
  }

  /** What the empty export name means, if somebody has said so, or is new here. */
  #defaultExport(catalogue: Catalogue, commandLine: readonly StoredDevice[]): string | null {
    const { exportName, image, embedded } = this.#options;
    if (exportName !== null) return exportName;
    if (image !== null) return commandLine[0]?.name ?? null;
    return embedded && catalogue.names().includes(firstVolume) ? firstVolume : null;
  }

  async #openState(path: string): Promise<StateDirectory> {
    try {
      await this.#asRoot(async () => {
        // Volumes may be in it: it is nobody else's.
        await mkdir(path, { mode: 0o700 });
        this.#privileges?.give(path);
      });
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

  /** Everything that only root may do to places that are not the user's own; in that order. */
  #bind(
    queue: Queue,
    catalogue: Catalogue,
    snapshots: Snapshots,
    regions: Regions,
  ): Promise<string | null> {
    return this.#asRoot(async () => {
      const { tls, single, protocol, pidfile } = this.#options;
      const control = await this.#openControl(queue, catalogue, snapshots, regions);
      if (single || tls.mode !== 'off') {
        const { handshakeMilliseconds } = protocol;
        const log = this.#log;
        this.#gate = await Gate.open({ tls, queue, log, handshakeMilliseconds });
      }
      const listeners = await this.#listen(queue, this.#gate);
      if (pidfile !== null) this.#pidfile = new PidFile(pidfile);
      this.#give([control, pidfile, ...listeners.paths, ...listeners.folders]);
      return control;
    });
  }

  async #listen(queue: Queue, gate: Gate | null): Promise<Listeners> {
    const { tls } = this.#options;
    const listeners = new Listeners((source) => {
      if (gate !== null && tls.mode !== 'off') return gate.listen(source);
      return queue.call('listen', { address: source });
    });
    this.#listeners = listeners;
    for (const listening of this.#options.listeners) await listeners.add(listening);
    return listeners;
  }

  /** As root, if this process is another user only for the time being. */
  #asRoot<T>(work: () => Promise<T>): Promise<T> {
    return this.#privileges === null ? work() : this.#privileges.raised(work);
  }

  #give(paths: readonly (string | null)[]): void {
    const privileges = this.#privileges;
    if (privileges === null) return;
    for (const path of paths) if (path !== null) privileges.give(path);
    this.#gate?.giveTo(privileges.account.uid, privileges.account.gid);
  }

  async #openControl(
    queue: Queue,
    catalogue: Catalogue,
    snapshots: Snapshots,
    regions: Regions,
  ): Promise<string | null> {
    const { control, controlTcp, embedded, state } = this.#options;
    if (control === 'none' && controlTcp === null) return null;
    const version: Version = {
      name: 'mapperd',
      version: packageVersion(),
      protocol: controlProtocol,
      engine: queue.engine,
      engineReason: queue.engineReason,
      node: process.versions.node,
      pid: process.pid,
      state: state === null ? null : resolve(state),
    };
    const listeners = (): readonly ListenAddress[] => this.#listeners?.addresses ?? [];
    const allowed = this.#allowed;
    const parts = { queue, catalogue, snapshots, regions, version, allowed, listeners };
    const rpc = new Rpc(controlMethods(parts), this.#log);
    if (controlTcp !== null) await this.#openTcpControl(rpc, controlTcp);
    if (control === 'none') return null;
    const listen = async (path: string): Promise<string> => {
      const server = new ControlServer(rpc, this.#log, null, this.#uploads);
      const full = await server.listen(path);
      this.#servers.push(server);
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

  async #openTcpControl(rpc: Rpc<Subscriber>, controlTcp: ControlTcp): Promise<void> {
    const { places, tokenFile, origins } = controlTcp;
    const access = new TcpAccess(await readToken(tokenFile), origins);
    for (const place of places) {
      if (!/^(127\.|::1$)/.test(place.host)) {
        this.#log.warn({ address: tcpPlaceText(place) }, 'control over TCP is not encrypted');
      }
      const server = new ControlServer(rpc, this.#log, access, this.#uploads);
      this.#controlPlaces.push(tcpPlaceText(await server.listenTcp(place)));
      this.#servers.push(server);
    }
  }

  async #tellReady(catalogue: Catalogue, control: string | null): Promise<void> {
    const { embedded, tls, exportName, printUri, single, run, socketNames } = this.#options;
    const { engine, engineReason } = this.#queue as Queue;
    const addresses: readonly ListenAddress[] = this.#listeners?.addresses ?? [];
    const uris = addresses.map((address) => nbdUri(address, '', tls));
    const serving = single ? ['standard input and output'] : uris;
    const sockets = socketNames.some((name) => name !== '') ? { sockets: socketNames } : {};
    const controls = this.#controlPlaces;
    const tcp = controls.length === 0 ? {} : { controlTcp: controls };
    const fields = { serving, ...sockets, control, ...tcp, engine, reason: engineReason };
    const { account } = this.#privileges ?? {};
    const user = account === undefined ? {} : { uid: account.uid, gid: account.gid };
    this.#log.info({ ...fields, ...user }, 'ready');
    await this.#notifier?.ready(`serving at ${serving.join(', ')}`);
    if (printUri) {
      const lines = addresses.map(
        (address) => `${nbdUri(localAddress(address), exportName ?? '', tls)}\n`,
      );
      standardOutput.write(lines.join(''));
    } else if (embedded && !single && run === null && socketNames.length === 0) {
      standardOutput.write(firstLines(catalogue.names(), addresses, control));
    }
  }

  #event(event: QueueEvent): void {
    if (event.event === 'log') this.#log[event.level](event.fields, event.text);
    else if (event.event === 'target') logTargetEvent(this.#log, event);
    else this.#log.debug({ ...event, event: undefined }, event.event);
    this.#regions?.event(event);
    // Each of the regions that a target moves is nothing to tell: it is asked how far it is.
    if (event.event === 'target' && event.what === 'regions') return;
    for (const server of this.#servers) server.publish(event);
    this.#snapshots?.event(event);
  }
}
