/** The commands about snapshots. */

import { resolve } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { EINVAL, EIO } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { formatBytes, parseBytes } from '../base/sizes.js';
import type { SnapshotInfo } from '../control/messages.js';
import type { Command, Invocation } from './command.js';
import { formatNotes, formatSnapshots } from './format.js';

/** How often a merge that is waited for is looked at. */
const pollMilliseconds = 250;
/** A merge has ended, and the origin should have got its table back by then. */
const endPolls = 40;

const forRemoving = ['force', 'keep-cow'] as const;
const forTaking = ['transient', 'chunk', 'cow', 'size', 'wipe', 'readonly'] as const;

async function snapshot(call: Invocation): Promise<void> {
  const removing = call.options.flag('remove');
  for (const option of removing ? forTaking : forRemoving) {
    if (!call.options.flag(option) && call.options.text(option) === undefined) continue;
    const found = removing ? '--remove' : 'no --remove';
    throw new MapperError(EINVAL, `found --${option} and ${found}: they do not go together`);
  }
  const wanted = removing ? 1 : 2;
  const count = call.words.length;
  if (count !== wanted) {
    const usage = removing ? '--remove NAME' : 'ORIGIN NAME';
    throw new MapperError(EINVAL, `found ${count} words, wanted: mapperctl snapshot ${usage}`);
  }
  await (removing ? remove(call) : take(call));
}

async function take({ words, options, client, print }: Invocation): Promise<void> {
  const [origin, name] = words as [string, string];
  const chunk = options.text('chunk');
  const size = options.text('size');
  const cow = options.text('cow');
  const made = await client.call('snapshot', {
    origin,
    name,
    transient: options.flag('transient'),
    readOnly: options.flag('readonly'),
    wipe: options.flag('wipe'),
    ...(chunk === undefined ? {} : { chunkSectors: sectorsIn('--chunk', chunk) }),
    ...(cow === undefined ? {} : { cow: resolve(cow) }),
    ...(size === undefined ? {} : { cowBytes: 512 * sectorsIn('--size', size) }),
  });
  const chunks = `chunks of ${formatBytes(made.chunkSectors * 512)}`;
  const lines = [`${name}: snapshot of ${origin}, ${chunks}`];
  lines.push(`COW: ${made.cow} (up to ${formatBytes(made.cowBytes)})`);
  if (!made.stored) lines.push(`note: ${origin} is not stored, so ${name} ends with the daemon`);
  print(made, `${lines.join('\n')}\n`);
}

async function remove({ words, options, client, print }: Invocation): Promise<void> {
  const [name] = words as [string];
  const force = options.flag('force');
  const keepCow = options.flag('keep-cow');
  const done = await client.call('removeSnapshot', { name, force, keepCow });
  print(done, formatNotes(done.notes));
}

async function merge(call: Invocation): Promise<void> {
  const { words, options, client, print } = call;
  const [name] = words as [string];
  const done = await client.call('merge', { name });
  if (options.flag('wait') && done.origin !== null) await untilMerged(call, done.origin);
  print(done, formatNotes(done.notes));
}

/** Until the origin has its table back. Throws MapperError if it is not to be. */
async function untilMerged({ client }: Invocation, origin: string): Promise<void> {
  for (let ended = 0; ; await sleep(pollMilliseconds)) {
    const all = await client.call('snapshots', { origin });
    const state = all.find((one) => isMerge(one, origin))?.state;
    if (state === undefined) return;
    if (state === 'merging') continue;
    if (state !== 'merged') {
      throw new MapperError(EIO, `merge into "${origin}" has failed: ${state}`);
    }
    if (++ended > endPolls) {
      const text = `snapshot is merged, but "${origin}" did not get its table back`;
      throw new MapperError(EIO, `${text}: the daemon's log says why`);
    }
  }
}

/** While a snapshot is merged, it is told under its origin's name. */
function isMerge({ name, origin }: SnapshotInfo, wanted: string): boolean {
  return name === wanted && origin === wanted;
}

function sectorsIn(option: string, text: string): number {
  const bytes = parseBytes(text);
  if (bytes > 0 && bytes % 512 === 0) return bytes / 512;
  throw new MapperError(EINVAL, `${option}: found ${bytes} bytes, wanted a multiple of 512`);
}

export const snapshotCommands: readonly Command[] = [
  {
    name: 'snapshot',
    usage:
      'ORIGIN NAME [--transient] [--chunk 4k] [--cow FILE] [--size 1G] [--wipe] [--readonly]' +
      ' | --remove NAME [--force] [--keep-cow]',
    summary: 'take a snapshot of a device in use, or remove one',
    minWords: 0,
    maxWords: Number.POSITIVE_INFINITY,
    options: {
      transient: { type: 'boolean', short: 't' },
      chunk: { type: 'string' },
      cow: { type: 'string' },
      size: { type: 'string' },
      wipe: { type: 'boolean' },
      readonly: { type: 'boolean', short: 'r' },
      remove: { type: 'boolean' },
      force: { type: 'boolean', short: 'f' },
      'keep-cow': { type: 'boolean' },
    },
    run: snapshot,
  },
  {
    name: 'snapshots',
    usage: '[ORIGIN]',
    summary: 'list snapshots: how full, how old',
    minWords: 0,
    maxWords: 1,
    run: async ({ words, client, print }) => {
      const [origin] = words;
      const all = await client.call('snapshots', origin === undefined ? {} : { origin });
      print(all, formatSnapshots(all, Date.now()));
    },
  },
  {
    name: 'merge',
    usage: 'NAME [--wait]',
    summary: 'merge a snapshot into its origin, which stays in use',
    minWords: 1,
    maxWords: 1,
    options: { wait: { type: 'boolean', short: 'w' } },
    run: merge,
  },
];
