/** Regions that the daemon moves from one path to another: started, watched, cancelled. */

import { setTimeout as sleep } from 'node:timers/promises';
import { ECANCELED, EIO } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { formatBytes } from '../base/sizes.js';
import type { Invocation } from './command.js';

/** How often one asks how far it is. */
const pollMilliseconds = 200;

/** What the message `move_status` answers. */
export interface MoveStatus {
  readonly state: string;
  /** Paths; null before the first move. */
  readonly from: number | null;
  readonly to: number | null;
  readonly moved: number;
  readonly total: number;
  readonly bytes: number;
  /** All that was moved is in the state directory. */
  readonly stored: boolean;
  readonly error: string | null;
}

/** Throws MapperError for what is no answer of `move_status`. */
export function parseMoveStatus(text: string): MoveStatus {
  const pattern = /^([a-z]+) (\d+|-) (\d+|-) (\d+) (\d+) (\d+) (\d+) (\d+)(?: (.*))?$/s;
  const match = pattern.exec(text);
  if (match === null) throw new MapperError(EIO, `found "${text}", wanted the status of a move`);
  const [, state, from, to, moved, total, bytes, generation, saved, error] = match;
  const path = (word: string | undefined): number | null => (word === '-' ? null : Number(word));
  return {
    state: state as string,
    from: path(from),
    to: path(to),
    moved: Number(moved),
    total: Number(total),
    bytes: Number(bytes),
    stored: Number(saved) >= Number(generation),
    error: error ?? null,
  };
}

/** `words` are the message's. Waits for the end, unless it is to go on by itself. */
export async function moveRegions(
  call: Invocation,
  name: string,
  sector: number,
  words: readonly string[],
): Promise<void> {
  const { client, options, print } = call;
  const answer = await client.call('message', { name, sector, words: [...words] });
  const total = Number(answer);
  if (options.flag('background')) {
    print({ total }, `${name}: moving ${total} regions\n`);
    return;
  }
  let asked = false;
  const interrupted = (): void => {
    // Who asks twice does not want to wait for what is under way.
    if (asked) process.exit(1);
    asked = true;
    client.call('message', { name, sector, words: ['move_cancel'] }).catch(() => {});
  };
  process.on('SIGINT', interrupted).on('SIGTERM', interrupted);
  try {
    const bar = process.stderr.isTTY && !options.flag('json');
    conclude(call, name, await untilEnded(call, name, sector, bar));
  } finally {
    process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
  }
}

/** Ends the move that is under way; what has been moved stays moved. */
export async function cancelMove(call: Invocation, name: string, sector: number): Promise<void> {
  await call.client.call('message', { name, sector, words: ['move_cancel'] });
  const status = await untilEnded(call, name, sector, false);
  call.print(status, `${name}: ${formatMoved(status)}, ${status.state}\n`);
}

async function untilEnded(
  { client }: Invocation,
  name: string,
  sector: number,
  bar: boolean,
): Promise<MoveStatus> {
  const words = ['move_status'];
  for (;;) {
    const status = parseMoveStatus(await client.call('message', { name, sector, words }));
    const over = status.state !== 'running' && status.stored;
    if (bar) process.stderr.write(over ? '\r\x1b[K' : `\r${formatMoved(status)}\x1b[K`);
    if (over) return status;
    await sleep(pollMilliseconds);
  }
}

function conclude({ print }: Invocation, name: string, status: MoveStatus): void {
  const done = `${name}: ${formatMoved(status)}`;
  print(status, status.state === 'done' ? `${done}\n` : '');
  if (status.state === 'cancelled') throw new MapperError(ECANCELED, `${done}, then cancelled`);
  if (status.state !== 'done') throw new MapperError(EIO, `${done}: ${status.error ?? 'failed'}`);
}

/** `12 of 40 regions moved from path 0 to path 1 (48.0 MiB)` */
export function formatMoved({ from, to, moved, total, bytes }: MoveStatus): string {
  if (from === null) return 'nothing was ever moved';
  return `${moved} of ${total} regions moved from path ${from} to path ${to} (${formatBytes(bytes)})`;
}
