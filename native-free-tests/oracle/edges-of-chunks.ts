/** Chunk sizes, parts of chunks, what was in the COW before, discards, places that are bad. */

import { again, type Edge, look, start } from './edge.js';

const chunks: Edge[] = [
  {
    title: 'the chunk size on disk wins',
    script: [...start('P', 32, 256), 'table %s', 'write %t 0 40 2', 'status %s', ...again('P', 8)],
  },
  { title: 'chunk size 0 is the default', script: [...start('P', 0, 256), 'table %s', ...look] },
  {
    title: 'parts of chunks, whole chunks and the short last one',
    script: [
      ...start('P', 8, 200),
      'write %s 9 3 2',
      'read %c',
      'write %s 16 8 3',
      'read %c',
      'write %t 30 5 4',
      'read %c',
      'write %t 33 20 5',
      'read %c',
      'write %s 96 4 6',
      'read %c',
      'write %s 10 80 7',
      ...look,
      'write %t 0 100 8',
      ...look,
    ],
  },
  {
    title: 'two snapshots with chunks of their own',
    script: [
      ...start('P', 4, 200),
      'disk %d 300',
      'suspend %t',
      'create %u 0 100 snapshot @%o @%d PO 16',
      'resume %t',
      'write %t 3 5 2',
      'write %u 20 3 3',
      'write %s 21 16 4',
      'write %t 0 100 5',
      'status %u',
      'read %u',
      'read %d',
      ...look,
    ],
  },
  {
    title: 'a snapshot of the first half',
    script: [
      'disk %o 100',
      'disk %c 100',
      'create %t 0 100 snapshot-origin @%o',
      'suspend %t',
      'create %s 0 50 snapshot @%o @%c P 4',
      'resume %t',
      'write %t 47 20 2',
      'write %t 60 20 3',
      ...look,
    ],
  },
];

const dirty: Edge[] = [
  {
    title: 'a COW of garbage behind a zero chunk',
    script: ['disk %o 100', 'disk %c 200', 'pour %c 8 192 9'].concat(
      start('P', 8, 200).slice(3),
      ['write %t 0 20 2'],
      look,
      again('P', 8),
    ),
  },
];

const discards: Edge[] = [
  {
    title: 'discards zero the COW',
    script: [
      'disk %o 100',
      'disk %c 200',
      'pour %o 0 100 1',
      'create %s 0 100 snapshot @%o @%c P 8 1 discard_zeroes_cow',
      'table %s',
      'write %s 0 32 2',
      'discard %s 8 8',
      ...look,
      'discard %s 64 8',
      'status %s',
      'read %s',
    ],
  },
  {
    title: 'discards are passed to the origin',
    trims: true,
    script: [
      'disk %o 100',
      'disk %c 200',
      'pour %o 0 100 1',
      'create %s 0 100 snapshot @%o @%c P 8 2 discard_zeroes_cow DISCARD_passdown_origin',
      'table %s',
      'write %s 0 32 2',
      'discard %s 8 16',
      ...look,
      'discard %s 64 8',
      ...look,
    ],
  },
];

/** A snapshot whose COW has a bad place. */
function badCow(title: string, chunkSectors: number, bad: number, writes: readonly string[]): Edge {
  const behind = bad + chunkSectors;
  return {
    title,
    script: [
      'disk %o 100',
      'disk %c 200',
      'pour %o 0 100 1',
      `create %b 0 ${bad} linear @%c 0; ${bad} ${chunkSectors} error; ` +
        `${behind} ${200 - behind} linear @%c ${behind}`,
      'create %t 0 100 snapshot-origin @%o',
      'suspend %t',
      `create %s 0 100 snapshot @%o dm:%b P ${chunkSectors}`,
      'resume %t',
      ...writes.flatMap((line) => [line, 'status %s']),
      ...look,
      'suspend %t',
      'remove %s',
      `create %s 0 100 snapshot @%o @%c P ${chunkSectors}`,
      'resume %t',
      ...look,
    ],
  };
}

const failures: Edge[] = [
  badCow('a copy cannot be written', 8, 32, ['write %t 0 16 2', 'write %t 16 3 3']),
  badCow("a snapshot's whole chunk cannot be written", 8, 32, [
    'write %s 0 16 2',
    'write %s 16 8 3',
    'write %s 0 1 4',
  ]),
  badCow('the next area cannot be written', 1, 34, [
    'write %t 0 31 2',
    'write %t 31 1 3',
    'write %t 32 1 4',
  ]),
  {
    title: 'a chunk of the origin cannot be read',
    script: [
      'disk %o 100',
      'disk %c 200',
      'pour %o 0 100 1',
      'create %b 0 43 linear @%o 0; 43 1 error; 44 56 linear @%o 44',
      'create %t 0 100 snapshot-origin dm:%b',
      'suspend %t',
      'create %s 0 100 snapshot dm:%b @%c P 8',
      'resume %t',
      'write %t 0 16 2',
      'status %s',
      'read %s',
      'peek %s 0 43',
      'write %s 40 8 3',
      'status %s',
      'read %s',
      'write %s 32 8 4',
      ...look,
    ],
  },
  {
    title: 'a chunk of the origin cannot be copied',
    script: [
      'disk %o 100',
      'disk %c 200',
      'pour %o 0 100 1',
      'create %b 0 43 linear @%o 0; 43 1 error; 44 56 linear @%o 44',
      'create %t 0 100 snapshot-origin dm:%b',
      'suspend %t',
      'create %s 0 100 snapshot dm:%b @%c P 8',
      'resume %t',
      'write %t 40 2 3',
      ...look,
    ],
  },
  {
    // Which exceptions are gone before it fails is not the same: we merge several runs at once.
    title: 'a merge fails, and is done again when the origin is well',
    script: [
      ...start('P', 4, 200),
      'write %s 0 10 2',
      'write %s 40 10 3',
      'write %s 80 10 4',
      'read %s',
      'suspend %t',
      'remove %s',
      'remove %t',
      'create %b 0 43 linear @%o 0; 43 1 error; 44 56 linear @%o 44',
      'create %m 0 100 snapshot-merge dm:%b @%c P 4',
      'until %m Merge failed',
      'status %m',
      'read %m',
      'write %m 90 5 5',
      'write %m 1 2 6',
      'read %m',
      'remove %m',
      'create %m 0 100 snapshot-merge @%o @%c P 4',
      'until %m snapshot-merge 8/200 8$',
      'read %m',
      'read %o',
    ],
  },
];

export const edgesOfChunks: readonly Edge[] = [...chunks, ...dirty, ...discards, ...failures];
