/** The benchmark's command line. */

import { parseArgs } from 'node:util';
import { EINVAL } from '../../src/base/errno.js';
import { MapperError, messageOf } from '../../src/base/errors.js';
import type { EngineChoice } from '../../src/engine/choose.js';

export interface BenchOptions {
  readonly rounds: number;
  readonly seconds: number;
  /** null: all but the extra ones. */
  readonly only: readonly string[] | null;
  readonly list: boolean;
  readonly help: boolean;
  readonly bytes: number;
  readonly directory: string;
  readonly engine: EngineChoice;
  readonly requests: number;
  readonly json: string | null;
  readonly markdown: string | null;
}

export const usage = `Usage: npm run bench -- [options]

Compares mapperd with nbdkit and QEMU's servers, with fio as the client, and prints the
figures, the ratios and the ratios wanted. Needs nbdkit, qemu-utils and fio; for some of
the cases also qemu-storage-daemon and libnbd-bin; for those on XFS root, loop devices
and xfsprogs. The exit code is 0 whatever the figures are, and 1 if something could
not be measured.

  --rounds N         runs of each server in each case, of which the medians count (5)
  --seconds N        length of a run (3)
  --only CASE[,CASE] only these
  --list             print the cases
  --requests N       requests of the case "memory" (20000000)
  --size SIZE        size of the served file, in M or G (1G)
  --dir DIRECTORY    where the served file is made, and removed (/var/tmp)
  --engine ENGINE    mapperd's engine: auto, uring or node (auto)
  --json FILE        write all that was measured
  --markdown FILE    write the tables as Markdown
  --help             print this
`;

/** Throws MapperError EINVAL. */
export function parseOptions(args: readonly string[]): BenchOptions {
  const values = parse(args);
  return {
    rounds: parseCount('--rounds', values.rounds ?? '5', 1000),
    seconds: parseCount('--seconds', values.seconds ?? '3', 86_400),
    only: values.only?.split(',').filter((name) => name !== '') ?? null,
    list: values.list ?? false,
    help: values.help ?? false,
    bytes: parseSize(values.size ?? '1G'),
    directory: values.dir ?? '/var/tmp',
    engine: parseEngine(values.engine ?? 'auto'),
    requests: parseCount('--requests', values.requests ?? '20000000', 1e12),
    json: values.json ?? null,
    markdown: values.markdown ?? null,
  };
}

function parse(args: readonly string[]) {
  try {
    return parseArgs({
      args: [...args],
      options: {
        rounds: { type: 'string' },
        seconds: { type: 'string' },
        only: { type: 'string' },
        list: { type: 'boolean' },
        requests: { type: 'string' },
        size: { type: 'string' },
        dir: { type: 'string' },
        engine: { type: 'string' },
        json: { type: 'string' },
        markdown: { type: 'string' },
        help: { type: 'boolean' },
      },
    }).values;
  } catch (error) {
    throw new MapperError(EINVAL, `${messageOf(error).split('. ')[0]} (--help lists the options)`);
  }
}

function parseCount(option: string, text: string, most: number): number {
  const count = /^[0-9]{1,15}$/.test(text) ? Number(text) : 0;
  if (count >= 1 && count <= most) return count;
  throw new MapperError(EINVAL, `${option}: found "${text}", wanted 1 to ${most}`);
}

const smallestBytes = 16 << 20;

/** Whole mebibytes, as the file is made of such pieces. */
function parseSize(text: string): number {
  const match = /^([0-9]{1,6})([MG])$/.exec(text);
  const bytes = match === null ? 0 : Number(match[1]) * 2 ** (match[2] === 'G' ? 30 : 20);
  if (bytes >= smallestBytes) return bytes;
  throw new MapperError(EINVAL, `--size: found "${text}", wanted 16M or more, such as 512M or 2G`);
}

function parseEngine(text: string): EngineChoice {
  if (text === 'auto' || text === 'uring' || text === 'node') return text;
  throw new MapperError(EINVAL, `--engine: found "${text}", wanted auto, uring or node`);
}
