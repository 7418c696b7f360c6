/** The daemon's command line, in nbdkit's words. */

import { parseArgs } from 'node:util';
import { EINVAL } from './base/errno.js';
import { MapperError, messageOf } from './base/errors.js';
import { type LogLevel, logLevels } from './control/log.js';
import { nameProblem } from './control/names.js';
import type { EngineChoice } from './engine/choose.js';

export const defaultPort = 10809;
export const defaultHost = '127.0.0.1';

/** What the daemon is to do. */
export interface DaemonOptions {
  /** Nothing was asked for: ./state, made with a first volume if it is not there. */
  readonly embedded: boolean;
  readonly tcp: { readonly host: string; readonly port: number } | null;
  readonly unix: string | null;
  readonly readOnly: boolean;
  /** The device that the empty export name means, and the image's name; null: by itself. */
  readonly exportName: string | null;
  readonly pidfile: string | null;
  readonly engine: EngineChoice;
  readonly state: string | null;
  readonly devices: readonly { readonly name: string; readonly table: string }[];
  /** null: the default place; 'none': without a control socket. */
  readonly control: string | null;
  readonly logLevel: LogLevel;
  readonly image: string | null;
}

export type CommandLine = DaemonOptions | 'help' | 'version';

export const usage = `Usage: mapperd [options] [IMAGE]

Serves device-mapper devices over NBD. IMAGE, a file or block device, is served
as the default export. Without IMAGE, --device and --state the directory ./state
is used, made with a first volume of 1 GiB and a snapshot of it if it is empty,
and served on TCP and on ./state/nbd.sock.

  -p, --port PORT         TCP port (${defaultPort}; 0: one that is free, told when ready)
  -i, --ip-addr ADDRESS   TCP address (${defaultHost})
  -U, --unix PATH         unix socket; then no TCP, unless -p or -i is given too
  -r, --read-only         refuse writes to every device
  -e, --export-name NAME  name of IMAGE's device (its file name); without IMAGE, the
                          device that the empty export name means
  -P, --pidfile PATH      file for the process id, written when clients can connect
      --engine ENGINE     auto, uring or node (auto)
      --state DIR         directory that keeps the devices over a restart
      --device 'NAME: LINE[; LINE...]'
                          a device and its table, as dmsetup writes it; repeatable;
                          not kept in DIR: it comes from here each time
      --control PATH      control socket, or "none" ($XDG_RUNTIME_DIR/mapperd.sock,
                          else /run/mapperd.sock; with ./state as above,
                          ./state/control.sock where that cannot be had)
      --log-level LEVEL   ${logLevels.join(', ')} (info)
  -V, --version           print the version
      --help              print this

SIGTERM and SIGINT end it: what is in flight is finished and flushed. A second
one ends it at once.
`;

/** Throws MapperError EINVAL. */
export function parseCommandLine(args: readonly string[]): CommandLine {
  const { values, positionals } = parse(args);
  if (values.help) return 'help';
  if (values.version) return 'version';
  if (positionals.length > 1) {
    throw usageError(`found ${positionals.length} images, wanted one: "${positionals[1]}"`);
  }
  const image = positionals[0] ?? null;
  const devices = (values.device ?? []).map(parseDevice);
  const state = values.state ?? null;
  const embedded = image === null && devices.length === 0 && state === null;
  const unix = values.unix ?? null;
  if (unix === '' || unix === '-') throw usageError(`--unix: found "${unix}", wanted a path`);
  const wantsTcp =
    values.port !== undefined || values['ip-addr'] !== undefined || unix === null || embedded;
  const exportName = values['export-name'] ?? null;
  const problem = exportName === null ? null : nameProblem(exportName);
  if (problem !== null) throw usageError(`--export-name: ${problem}`);
  for (const name of ['ip-addr', 'state', 'control', 'pidfile'] as const) {
    if (values[name] === '') throw usageError(`--${name}: found an empty string`);
  }
  return {
    embedded,
    tcp: wantsTcp
      ? { host: values['ip-addr'] ?? defaultHost, port: parsePort(values.port ?? `${defaultPort}`) }
      : null,
    unix,
    readOnly: values['read-only'] ?? false,
    exportName,
    pidfile: values.pidfile ?? null,
    engine: oneOf('--engine', values.engine ?? 'auto', ['auto', 'uring', 'node']),
    state: embedded ? 'state' : state,
    devices,
    control: values.control ?? null,
    logLevel: oneOf('--log-level', values['log-level'] ?? 'info', logLevels),
    image,
  };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      allowPositionals: true,
      options: {
        port: { type: 'string', short: 'p' },
        'ip-addr': { type: 'string', short: 'i' },
        unix: { type: 'string', short: 'U' },
        'read-only': { type: 'boolean', short: 'r' },
        'export-name': { type: 'string', short: 'e' },
        pidfile: { type: 'string', short: 'P' },
        engine: { type: 'string' },
        state: { type: 'string' },
        device: { type: 'string', multiple: true },
        control: { type: 'string' },
        'log-level': { type: 'string' },
        version: { type: 'boolean', short: 'V' },
        help: { type: 'boolean' },
      },
    });
  } catch (error) {
    // Node adds a sentence of advice that does not fit here.
    throw usageError(messageOf(error).split('. ')[0] as string);
  }
}

/** `NAME: LINE[; LINE...]`; a name may hold colons without a blank behind. `\;` is no separator. */
function parseDevice(text: string): { name: string; table: string } {
  const match = /^(.+?):\s+(\S[\s\S]*)$/.exec(text);
  if (match === null) throw usageError(`--device: found "${text}", wanted 'NAME: TABLE LINE'`);
  const [, name, lines] = match as unknown as [string, string, string];
  const problem = nameProblem(name);
  if (problem !== null) throw usageError(`--device: ${problem}`);
  const table = lines.replace(/(\\[\s\S])|\s*;\s*/g, (_all, escaped?: string) => escaped ?? '\n');
  return { name, table };
}

function parsePort(text: string): number {
  const port = /^[0-9]{1,5}$/.test(text) ? Number(text) : Number.NaN;
  if (port >= 0 && port <= 65_535) return port;
  throw usageError(`--port: found "${text}", wanted 0 to 65535`);
}

function oneOf<T extends string>(option: string, found: string, wanted: readonly T[]): T {
  const value = wanted.find((one) => one === found);
  if (value !== undefined) return value;
  throw usageError(`${option}: found "${found}", wanted ${wanted.join(', ')}`);
}

function usageError(text: string): MapperError {
  const first = text.charAt(0).toLowerCase() + text.slice(1);
  return new MapperError(EINVAL, `${first.replace(/\.$/, '')} (mapperd --help lists the options)`);
}
