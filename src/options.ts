/** The daemon's command line, read: src/daemon/option-table.ts has the words. */

import { isIP } from 'node:net';
import { parseArgs } from 'node:util';
import { parseAddressBlock } from './base/address-block.js';
import { EINVAL } from './base/errno.js';
import { MapperError, messageOf } from './base/errors.js';
import {
  busyPollMilliseconds,
  busyPollMillisecondsMax,
  shutdownMilliseconds,
  timerMilliseconds,
} from './base/limits.js';
import { type LogLevel, logLevels } from './base/log-level.js';
import { parseDuration } from './base/sizes.js';
import { parseTcpPlace, type TcpPlace } from './control/control-address.js';
import { descriptionProblem } from './control/export-text.js';
import { nameProblem } from './control/names.js';
import { parseOrigin } from './control/tcp-access.js';
import type { InheritedSocket } from './daemon/activation.js';
import { type Listening, parseListening } from './daemon/listen-options.js';
import { defaultHost, defaultPort, optionRows } from './daemon/option-table.js';
import type { EngineChoice } from './engine/choose.js';
import type { TlsOptions } from './gate/tls-options.js';
import { type ProtocolOptions, wholeProtocol } from './nbd/protocol-options.js';

/** What the daemon is to do. */
export interface DaemonOptions {
  /** Nothing was asked for: ./state, made with a first volume if it is not there. */
  readonly embedded: boolean;
  /** Empty: one client on standard input and output is served. */
  readonly listeners: readonly Listening[];
  /** The names of the sockets in `listeners` that were passed to this process, if they have any. */
  readonly socketNames: readonly string[];
  readonly single: boolean;
  /** A shell command that is served, and whose end is ours. */
  readonly run: string | null;
  readonly exitWithParent: boolean;
  readonly printUri: boolean;
  readonly tls: TlsOptions;
  readonly protocol: ProtocolOptions;
  /** Addresses (CIDR) that are served; empty: all. */
  readonly allow: readonly string[];
  /** Names or numbers. */
  readonly user: string | null;
  readonly group: string | null;
  readonly readOnly: boolean;
  /** The device that the empty export name means, and the image's name; null: by itself. */
  readonly exportName: string | null;
  /** Of the image's export. */
  readonly description: string | null;
  readonly pidfile: string | null;
  readonly engine: EngineChoice;
  /** Milliseconds that the uring engine looks for work before it sleeps, at most; 0: none. */
  readonly busyPoll: number;
  readonly state: string | null;
  readonly devices: readonly { readonly name: string; readonly table: string }[];
  /** null: the default place; 'none': without a control socket. */
  readonly control: string | null;
  readonly controlTcp: ControlTcp | null;
  /** What control clients may have opened; empty: everything. */
  readonly allowPaths: readonly string[];
  /** Files are locked against other daemons. */
  readonly lock: boolean;
  readonly logLevel: LogLevel;
  /** For finishing what is in flight at the end; 0: for ever. */
  readonly shutdownMilliseconds: number;
  readonly image: string | null;
}

/** Control over TCP. */
export interface ControlTcp {
  readonly places: readonly TcpPlace[];
  readonly tokenFile: string;
  readonly origins: readonly string[];
}

export type CommandLine = DaemonOptions | 'help' | 'version' | 'dump-config';

/** What was given, by the options' names; a flag has an empty text. */
class Given {
  readonly #values: ReadonlyMap<string, readonly string[]>;

  constructor(values: ReadonlyMap<string, readonly string[]>) {
    this.#values = values;
  }

  flag(name: string): boolean {
    return this.#values.has(name);
  }

  all(name: string): readonly string[] {
    return this.#values.get(name) ?? [];
  }

  /** The last one counts; an empty text never does. */
  text(name: string): string | null {
    const text = this.all(name).at(-1) ?? null;
    if (text === '') throw new MapperError(EINVAL, `--${name}: found an empty string`);
    return text;
  }
}

/** `inherited`: sockets that this process was started with. Throws MapperError EINVAL. */
export function parseCommandLine(
  args: readonly string[],
  inherited: readonly InheritedSocket[] = [],
): CommandLine {
  try {
    const { given, images } = parse(args);
    if (given.flag('help')) return 'help';
    if (given.flag('version')) return 'version';
    if (given.flag('dump-config')) return 'dump-config';
    if (images.length > 1) throw error(`found ${images.length} images, wanted one: "${images[1]}"`);
    return daemonOptions(given, images[0] ?? null, inherited);
  } catch (failure) {
    throw error(`${messageOf(failure)} (mapperd --help lists the options)`);
  }
}

function daemonOptions(
  given: Given,
  image: string | null,
  inherited: readonly InheritedSocket[],
): DaemonOptions {
  const devices = given.all('device').map(parseDevice);
  const state = given.text('state');
  const exportName = given.all('export-name').at(-1) ?? null;
  if (exportName !== null) check('--export-name', nameProblem(exportName));
  const description = given.all('description').at(-1) ?? null;
  if (description !== null) {
    check('--description', descriptionProblem(description));
    if (image === null) throw error('--description: found no image, wanted one');
  }
  const mode = modeOf(given, inherited);
  const embedded = image === null && devices.length === 0 && state === null;
  const verbose = given.flag('verbose') ? 'debug' : null;
  const quiet = mode === 'captive' ? 'warn' : 'info';
  return {
    embedded,
    listeners: listenersOf(given, inherited, embedded),
    socketNames: inherited.map(({ name }) => name),
    single: given.flag('single'),
    run: given.text('run'),
    exitWithParent: given.flag('exit-with-parent'),
    printUri: given.flag('print-uri'),
    tls: tlsOf(given),
    protocol: protocolOf(given),
    allow: allowOf(given),
    user: given.text('user'),
    group: given.text('group'),
    readOnly: given.flag('read-only'),
    exportName,
    description,
    pidfile: given.text('pidfile'),
    engine: oneOf('--engine', given.text('engine') ?? 'auto', ['auto', 'uring', 'node']),
    busyPoll: busyPollOf(given),
    state: embedded ? 'state' : state,
    devices,
    control: controlOf(given, mode === 'captive'),
    controlTcp: controlTcpOf(given),
    allowPaths: given.all('allow-path').map((path) => {
      return path === '' ? refuseEmpty('allow-path') : path;
    }),
    lock: !given.flag('no-lock'),
    logLevel: oneOf('--log-level', given.text('log-level') ?? verbose ?? quiet, logLevels),
    shutdownMilliseconds: timeOf(given, 'shutdown-timeout', shutdownMilliseconds),
    image,
  };
}

/** Captive: somebody has started it for one purpose, and need not know of its log and control. */
function modeOf(given: Given, inherited: readonly InheritedSocket[]): 'captive' | 'usual' {
  const places = ['port', 'ip-addr', 'unix'].filter((name) => given.flag(name));
  const [first] = places;
  const single = given.flag('single');
  if (inherited.length > 0) {
    const wrong = single ? 'single' : given.flag('run') ? 'run' : first;
    if (wrong === undefined) return 'captive';
    throw error(`--${wrong}: found sockets that were passed in LISTEN_FDS, wanted none`);
  }
  if (single) {
    const wrong = given.flag('run') ? 'run' : given.flag('print-uri') ? 'print-uri' : first;
    if (wrong !== undefined) throw error(`found --single and --${wrong}, wanted one of them`);
  }
  return single || given.flag('run') ? 'captive' : 'usual';
}

function listenersOf(
  given: Given,
  inherited: readonly InheritedSocket[],
  embedded: boolean,
): readonly Listening[] {
  if (inherited.length > 0) return inherited.map(({ fd }) => ({ kind: 'fd', fd }));
  const words = { ports: given.all('port'), addresses: given.all('ip-addr') };
  const asked = parseListening({ ...words, paths: given.all('unix') });
  if (given.flag('single')) return [];
  if (given.flag('run')) return asked.length > 0 ? asked : [{ kind: 'private' }];
  const usual: Listening = { kind: 'tcp', host: defaultHost, port: defaultPort };
  if (!embedded) return asked.length > 0 ? asked : [usual];
  const isTcp = ({ kind }: Listening): boolean => kind === 'tcp';
  const tcp = asked.some(isTcp) ? [] : [usual];
  const unix: Listening = { kind: 'unix', path: 'state/nbd.sock' };
  return [...tcp, ...asked, ...(asked.every(isTcp) ? [unix] : [])];
}

function tlsOf(given: Given): TlsOptions {
  const asked = given.text('tls');
  const mode = oneOf('--tls', asked ?? 'off', ['off', 'on', 'require']);
  const certificates = given.text('tls-certificates');
  const psk = given.text('tls-psk');
  const verifyPeer = given.flag('tls-verify-peer');
  for (const name of ['tls-certificates', 'tls-psk', 'tls-verify-peer']) {
    // Somebody who gives them should not find out later that nothing was encrypted.
    if (asked === null && given.flag(name)) throw error(`--${name}: found no --tls, wanted it too`);
    if (psk === null || name === 'tls-psk' || !given.flag(name)) continue;
    throw error(`found --tls-psk and --${name}, wanted one of them`);
  }
  return { mode, certificates, psk, verifyPeer };
}

function protocolOf(given: Given): ProtocolOptions {
  return {
    structuredReplies: !given.flag('no-sr'),
    extendedHeaders: !given.flag('no-eh'),
    metaContexts: !given.flag('no-mc'),
    handshakeMilliseconds: timeOf(given, 'timeout', wholeProtocol.handshakeMilliseconds),
  };
}

function timeOf(given: Given, name: string, usual: number): number {
  const text = given.text(name);
  if (text === null) return usual;
  let milliseconds: number;
  try {
    milliseconds = parseDuration(text);
  } catch (failure) {
    throw error(`--${name}: ${messageOf(failure)}`);
  }
  // A time that is not 0 must not become it.
  if (milliseconds > 0 && milliseconds < 1) milliseconds = 1;
  if (milliseconds <= timerMilliseconds) return milliseconds;
  throw error(`--${name}: found "${text}", wanted at most ${timerMilliseconds}ms`);
}

/** In milliseconds; given in microseconds, as net.core.busy_poll is. */
function busyPollOf(given: Given): number {
  const text = given.text('busy-poll');
  if (text === null) return busyPollMilliseconds;
  const most = busyPollMillisecondsMax * 1000;
  const microseconds = /^[0-9]{1,6}$/.test(text) ? Number(text) : Number.NaN;
  if (microseconds <= most) return microseconds / 1000;
  throw error(`--busy-poll: found "${text}", wanted 0 to ${most} (microseconds)`);
}

function allowOf(given: Given): string[] {
  const blocks = given.all('allow').flatMap((text) => text.split(','));
  for (const block of blocks) {
    try {
      parseAddressBlock(block);
    } catch (failure) {
      throw error(`--allow: ${messageOf(failure)}`);
    }
  }
  return blocks;
}

/** The unix socket: the last one counts. Whoever asks for TCP alone gets no other. */
function controlOf(given: Given, captive: boolean): string | null {
  const words = given.all('control').map((word) => word || refuseEmpty('control'));
  const path = words.filter((word) => !isTcp(word)).at(-1);
  return path ?? (captive || words.length > 0 ? 'none' : null);
}

function isTcp(word: string): boolean {
  try {
    return parseTcpPlace(word) !== null;
  } catch (failure) {
    throw error(`--control: ${messageOf(failure)}`);
  }
}

function controlTcpOf(given: Given): ControlTcp | null {
  const places = given.all('control').flatMap((word) => parseTcpPlace(word) ?? []);
  const tokenFile = given.text('control-token-file');
  const origins = given.all('control-origin').map(parseOrigin);
  for (const { host } of places) {
    if (isIP(host) !== 0) continue;
    throw error(`--control: found host "${host}", wanted a numeric address`);
  }
  if (places.length > 0) {
    if (tokenFile !== null) return { places, tokenFile, origins };
    throw error('--control: found tcp:// without --control-token-file, wanted it too');
  }
  for (const name of ['control-token-file', 'control-origin']) {
    if (given.flag(name)) throw error(`--${name}: found no --control tcp://..., wanted it too`);
  }
  return null;
}

function refuseEmpty(name: string): never {
  throw error(`--${name}: found an empty string`);
}

/** The names that an option goes by. */
const rowsByWord = new Map(
  optionRows.flatMap((row) => [row.name, ...(row.aliases ?? [])].map((word) => [word, row])),
);

function parse(args: readonly string[]): { given: Given; images: string[] } {
  const options = [...rowsByWord].map(([word, { name, short, value }]) => {
    const type = value === undefined ? ('boolean' as const) : ('string' as const);
    return [word, { type, ...(word === name && short !== undefined ? { short } : {}) }] as const;
  });
  let parsed: ReturnType<typeof tokensOf>;
  try {
    parsed = tokensOf(args, Object.fromEntries(options));
  } catch (failure) {
    // Node adds a sentence of advice that does not fit here.
    const text = (messageOf(failure).split('. ')[0] as string).replace(/\.$/, '');
    throw error(text.charAt(0).toLowerCase() + text.slice(1));
  }
  const values = new Map<string, string[]>();
  for (const token of parsed.tokens) {
    const row = token.kind === 'option' ? rowsByWord.get(token.name) : undefined;
    if (row === undefined || token.kind !== 'option') continue;
    values.set(row.name, [...(values.get(row.name) ?? []), token.value ?? '']);
  }
  return { given: new Given(values), images: parsed.positionals };
}

function tokensOf(
  args: readonly string[],
  options: Record<string, { type: 'boolean' | 'string'; short?: string }>,
) {
  return parseArgs({ args: [...args], allowPositionals: true, tokens: true, options });
}

/** `NAME: LINE[; LINE...]`; a name may hold colons without a blank behind. `\;` is no separator. */
function parseDevice(text: string): { name: string; table: string } {
  const match = /^(.+?):\s+(\S[\s\S]*)$/.exec(text);
  if (match === null) throw error(`--device: found "${text}", wanted 'NAME: TABLE LINE'`);
  const [, name, lines] = match as unknown as [string, string, string];
  check('--device', nameProblem(name));
  const table = lines.replace(/(\\[\s\S])|\s*;\s*/g, (_all, escaped?: string) => escaped ?? '\n');
  return { name, table };
}

function oneOf<T extends string>(option: string, found: string, wanted: readonly T[]): T {
  const value = wanted.find((one) => one === found);
  if (value !== undefined) return value;
  throw error(`${option}: found "${found}", wanted ${wanted.join(', ')}`);
}

function check(option: string, problem: string | null): void {
  if (problem !== null) throw error(`${option}: ${problem}`);
}

function error(text: string): MapperError {
  return new MapperError(EINVAL, text);
}
