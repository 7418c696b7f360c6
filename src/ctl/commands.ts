/** The commands of mapperctl, a row for each, in dmsetup's words. */

import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { ECONNRESET, EINVAL, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { parseDuration } from '../base/sizes.js';
import { packageVersion } from '../base/version.js';
import type { DeviceLines, KnownDeviceInfo, RemovalNotes, Topic } from '../control/messages.js';
import { splitWords } from '../device/table-text.js';
import type { TableLine } from '../queue/commands.js';
import { attachCommands } from './attach.js';
import { benchCommands } from './bench.js';
import type { Command, Invocation } from './command.js';
import { completionCommand } from './completion.js';
import { copyCommands } from './copy.js';
import { exportCommands } from './export.js';
import {
  formatDependencies,
  formatEvent,
  formatInfo,
  formatInfoColumns,
  formatLines,
  formatList,
  formatMemory,
  formatNamedLines,
  formatNotes,
  formatStats,
  formatTargets,
  formatVersion,
} from './format.js';
import { regionCommands } from './regions.js';
import { snapshotCommands } from './snapshot.js';

const any = Number.POSITIVE_INFINITY;

/** Devices are told in the order of their names. */
const byName = (a: { name: string }, b: { name: string }): number => (a.name < b.name ? -1 : 1);

/** For each device named: a call whose result says nothing, or what is left to be done. */
async function forEach(
  { words, print }: Invocation,
  call: (name: string) => Promise<RemovalNotes | null>,
): Promise<void> {
  for (const name of words) {
    const done = await call(name);
    print(done, formatNotes(done?.notes ?? []));
  }
}

/** The table text that a command was given: --table, a file, or standard input. */
async function tableText(call: Invocation, file: string | undefined): Promise<string> {
  const lines = call.options.texts('table');
  if (lines !== undefined) {
    if (file === undefined) return lines.join('\n');
    throw new MapperError(EINVAL, `found --table and the file "${file}", wanted one of them`);
  }
  if (file === undefined || file === '-') return call.readInput();
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), `read table file: ${messageOf(error)}`);
  }
}

async function create(call: Invocation): Promise<void> {
  const [name, file] = call.words as [string, string | undefined];
  const readOnly = call.options.flag('readonly');
  if (!call.options.flag('notable')) {
    const table = await tableText(call, file);
    call.print(await call.client.call('create', { name, readOnly, table }), '');
    return;
  }
  if (file !== undefined || call.options.texts('table') !== undefined) {
    throw new MapperError(EINVAL, 'found --notable and a table, wanted one of them');
  }
  call.print(await call.client.call('create', { name, readOnly }), '');
}

/** `table` and `status`: one device's lines, or several with their names in front. */
async function printLines(
  call: Invocation,
  ask: (name?: string) => Promise<TableLine[] | DeviceLines[]>,
): Promise<void> {
  const { words, print } = call;
  if (words.length === 1) {
    const lines = (await ask(words[0])) as TableLine[];
    print(lines, formatLines(lines));
    return;
  }
  const all: DeviceLines[] = [];
  if (words.length === 0) all.push(...((await ask()) as DeviceLines[]).sort(byName));
  for (const name of words) all.push({ name, lines: (await ask(name)) as TableLine[] });
  print(all, formatNamedLines(all));
}

async function infoOf({ words, client }: Invocation): Promise<KnownDeviceInfo[]> {
  if (words.length === 0) return (await client.call('ls', {})).sort(byName);
  const devices: KnownDeviceInfo[] = [];
  for (const name of words) devices.push(await client.call('info', { name }));
  return devices;
}

/** The kernel splits a message at blanks, however the shell had it. */
async function message(call: Invocation): Promise<void> {
  const [name, sectorWord, ...rest] = call.words as [string, string, ...string[]];
  if (!/^[0-9]{1,15}$/.test(sectorWord)) {
    throw new MapperError(EINVAL, `message: found sector "${sectorWord}", wanted a number`);
  }
  const words = rest.flatMap(splitWords);
  const answer = await call.client.call('message', { name, sector: Number(sectorWord), words });
  call.print(answer, answer === '' || answer.endsWith('\n') ? answer : `${answer}\n`);
}

async function stats(call: Invocation): Promise<void> {
  const watch = call.options.text('watch');
  const pause = watch === undefined ? null : parseDuration(watch);
  const [name] = call.words;
  const interrupted = pause === null ? new Promise<void>(() => {}) : untilInterrupted();
  for (;;) {
    const result = await call.client.call('stats', name === undefined ? {} : { name });
    call.print(result, formatStats(result));
    if (pause === null) return;
    const [over] = await Promise.race([sleep(pause, [false]), interrupted.then(() => [true])]);
    if (over) return;
  }
}

async function events(call: Invocation): Promise<void> {
  const { client, options, print } = call;
  const countText = options.text('count');
  let left = countText === undefined ? any : Number(countText);
  if (!(left >= 1) || (left !== any && !Number.isInteger(left))) {
    throw new MapperError(EINVAL, `--count: found "${countText}", wanted a number from 1`);
  }
  const topics: Topic[] = ['device', 'target', 'connection'];
  if (options.flag('log')) topics.push('log');
  const enough = new Promise<void>((resolve) => {
    client.onEvent = (event) => {
      if (left <= 0) return;
      print(event, formatEvent(event));
      if (--left <= 0) resolve();
    };
  });
  await client.call('subscribe', { topics });
  const gone = client.closed.then(() => {
    throw new MapperError(ECONNRESET, 'the daemon closed the connection');
  });
  await Promise.race([enough, gone, untilInterrupted()]);
}

/** For commands without an end of their own: Ctrl-C ends them well. */
function untilInterrupted(): Promise<void> {
  return new Promise((resolve) => process.once('SIGINT', () => resolve()));
}

const tableOption = { table: { type: 'string', multiple: true } } as const;

export const commands: readonly Command[] = [
  {
    name: 'create',
    usage: 'NAME [--readonly] [--notable | --table LINE... | FILE]',
    summary: 'make a device; its table comes from --table, FILE or standard input',
    minWords: 1,
    maxWords: 2,
    options: {
      ...tableOption,
      readonly: { type: 'boolean', short: 'r' },
      notable: { type: 'boolean', short: 'n' },
    },
    run: create,
  },
  {
    name: 'load',
    alias: 'reload',
    usage: 'NAME [--table LINE... | FILE]',
    summary: 'put a table into the inactive slot',
    minWords: 1,
    maxWords: 2,
    options: tableOption,
    run: async (call) => {
      const [name, file] = call.words as [string, string | undefined];
      const table = await tableText(call, file);
      call.print(await call.client.call('load', { name, table }), '');
    },
  },
  {
    name: 'clear',
    usage: 'NAME...',
    summary: 'empty the inactive slot',
    minWords: 1,
    maxWords: any,
    run: (call) => forEach(call, (name) => call.client.call('clear', { name })),
  },
  {
    name: 'suspend',
    usage: 'NAME... [--noflush]',
    summary: 'finish and flush what is in flight; later requests wait',
    minWords: 1,
    maxWords: any,
    options: { noflush: { type: 'boolean' } },
    run: (call) => {
      const noFlush = call.options.flag('noflush');
      return forEach(call, (name) => call.client.call('suspend', { name, noFlush }));
    },
  },
  {
    name: 'resume',
    usage: 'NAME...',
    summary: 'make the inactive table live, if there is one, and go on',
    minWords: 1,
    maxWords: any,
    run: (call) => forEach(call, (name) => call.client.call('resume', { name })),
  },
  {
    name: 'remove',
    usage: 'NAME... [--force]',
    summary: 'remove a device; with --force even while it is in use',
    minWords: 1,
    maxWords: any,
    options: { force: { type: 'boolean', short: 'f' } },
    run: (call) => {
      const force = call.options.flag('force');
      return forEach(call, (name) => call.client.call('remove', { name, force }));
    },
  },
  {
    name: 'rename',
    usage: 'NAME NEW_NAME',
    summary: 'give a device another name',
    minWords: 2,
    maxWords: 2,
    run: async ({ words, client, print }) => {
      const [name, newName] = words as [string, string];
      print(await client.call('rename', { name, newName }), '');
    },
  },
  {
    name: 'table',
    usage: '[NAME...] [--inactive]',
    summary: 'print tables, as create takes them',
    minWords: 0,
    maxWords: any,
    options: { inactive: { type: 'boolean' } },
    run: (call) => {
      const inactive = call.options.flag('inactive');
      return printLines(call, (name) =>
        call.client.call('table', name === undefined ? { inactive } : { name, inactive }),
      );
    },
  },
  {
    name: 'status',
    usage: '[NAME...]',
    summary: "print the targets' status",
    minWords: 0,
    maxWords: any,
    run: (call) =>
      printLines(call, (name) => call.client.call('status', name === undefined ? {} : { name })),
  },
  {
    name: 'info',
    usage: '[NAME...] [-C | --columns]',
    summary: 'print state, tables and users',
    minWords: 0,
    maxWords: any,
    options: { columns: { type: 'boolean', short: 'C' } },
    run: async (call) => {
      const devices = await infoOf(call);
      const format = call.options.flag('columns') ? formatInfoColumns : formatInfo;
      call.print(call.words.length === 1 ? devices[0] : devices, format(devices));
    },
  },
  {
    name: 'message',
    usage: 'NAME SECTOR WORD...',
    summary: 'send words to the target at a sector',
    minWords: 3,
    maxWords: any,
    rawWords: true,
    run: message,
  },
  {
    name: 'ls',
    usage: '',
    summary: 'list devices',
    minWords: 0,
    maxWords: 0,
    run: async (call) => {
      const devices = await infoOf(call);
      call.print(devices, formatList(devices));
    },
  },
  {
    name: 'targets',
    usage: '',
    summary: 'list the types of target',
    minWords: 0,
    maxWords: 0,
    run: async ({ client, print }) => {
      const targets = await client.call('targets', {});
      print(targets, formatTargets(targets));
    },
  },
  ...exportCommands,
  ...attachCommands,
  ...snapshotCommands,
  ...copyCommands,
  ...regionCommands,
  ...benchCommands,
  {
    name: 'deps',
    usage: '[NAME...]',
    summary: 'print the devices that devices stand on',
    minWords: 0,
    maxWords: any,
    run: async (call) => {
      const devices = await infoOf(call);
      const raw = devices.map(({ name, dependencies }) => ({ name, dependencies }));
      call.print(raw, formatDependencies(devices, call.words.length !== 1));
    },
  },
  {
    name: 'stats',
    usage: '[NAME] [--watch INTERVAL]',
    summary: 'print requests, bytes and latency; again each interval ("2s")',
    minWords: 0,
    maxWords: 1,
    options: { watch: { type: 'string' } },
    run: stats,
  },
  {
    name: 'events',
    usage: '[--log] [--count N]',
    summary: 'print what happens to devices and connections until interrupted',
    minWords: 0,
    maxWords: 0,
    options: { log: { type: 'boolean' }, count: { type: 'string' } },
    run: events,
  },
  {
    name: 'memory',
    usage: '',
    summary: "print what connections and I/O hold of the daemon's memory",
    minWords: 0,
    maxWords: 0,
    run: async ({ client, print }) => {
      const memory = await client.call('memory', {});
      print(memory, formatMemory(memory));
    },
  },
  {
    name: 'version',
    usage: '',
    summary: 'print the versions of this command and of the daemon',
    minWords: 0,
    maxWords: 0,
    run: async ({ client, print }) => {
      const daemon = await client.call('version', {});
      print(daemon, formatVersion(packageVersion(), daemon));
    },
  },
  completionCommand(() => commands),
];
