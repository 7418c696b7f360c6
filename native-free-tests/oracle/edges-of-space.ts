/** Areas that are exactly full, COWs that are full, overflow, COWs that grow. */

import { again, type Edge, look, type StoreType, start, types } from './edge.js';

/** The COW's last chunks are taken one by one, and then one more. */
function filling(
  type: StoreType,
  cowSectors: number,
  exceptions: number,
  target: '%s' | '%t',
): Edge {
  const whose = target === '%s' ? 'its own' : "the origin's";
  return {
    title: `${type}, chunk 1, COW of ${cowSectors}: filled by ${whose} writes`,
    script: [
      ...start(type, 1, cowSectors),
      `write ${target} 0 ${exceptions - 2} 2`,
      'status %s',
      ...[2, 1, 0].flatMap((left) => [`write ${target} ${exceptions - left} 1 3`, ...look]),
      // A chunk that has its exception, then one without, then the origin's.
      'write %s 0 1 4',
      'write %s 90 1 5',
      'status %s',
      'write %t 95 1 6',
      ...look,
      ...again(type, 1),
      'write %s 0 1 7',
      'write %s 91 1 8',
      'write %t 96 1 9',
      ...look,
    ],
  };
}

const full: Edge[] = types.flatMap((type) => [
  filling(type, 35, 32, '%s'),
  filling(type, 35, 32, '%t'),
  filling(type, 36, 33, '%s'),
  filling(type, 68, 64, '%t'),
]);

/**
 * An area gets full, and the next one does not fit. The kernel takes the chunk, cannot write the
 * area and is invalid; mapperd does not take it. So the COWs differ in that chunk, and a PO
 * snapshot that is written to, which is left out here, has only overflowed with us.
 */
const tight: Edge[] = [
  filling('P', 34, 32, '%s'),
  filling('P', 34, 32, '%t'),
  filling('PO', 34, 32, '%t'),
  filling('P', 67, 64, '%s'),
].map(({ title, script }) => ({ title, script: script.filter((line) => line !== 'read %c') }));

/** An area of 256 exceptions, with room behind it for the next one and no more. */
const largeArea: Edge = {
  title: 'chunk 8: an area that is exactly full',
  script: [
    'disk %o 2400',
    'disk %c 2072',
    'create %t 0 2400 snapshot-origin @%o',
    'suspend %t',
    'create %s 0 2400 snapshot @%o @%c PO 8',
    'resume %t',
    // In parts, since what one long write allocates is in no order that anybody promised.
    ...Array.from({ length: 16 }, (_, at) => `write %t ${128 * at} ${at < 15 ? 128 : 115} 2`),
    'status %s',
    'write %s 2040 8 3',
    ...look,
    'suspend %t',
    'remove %s',
    'create %s 0 2400 snapshot @%o @%c PO 8',
    'resume %t',
    ...look,
    'write %s 2048 8 4',
    ...look,
  ],
};

const small: Edge[] = [2, 3].map((cowSectors) => ({
  title: `COW of ${cowSectors} sectors`,
  script: [
    ...start('P', 1, cowSectors),
    'write %t 5 1 2',
    'status %s',
    'read %c',
    'write %t 6 1 3',
    ...look,
  ],
}));

const crossing: Edge = {
  title: 'one write runs over the end of the COW',
  script: [
    ...start('PO', 8, 40),
    'write %s 3 50 2',
    'status %s',
    'read %s',
    'read %t',
    ...again('PO', 8),
  ],
};

const growing: Edge[] = [
  {
    title: 'the COW grows below a live snapshot',
    script: [
      ...start('P', 8, 32),
      'write %t 0 8 2',
      'grow %c 64',
      'status %s',
      'write %t 8 24 3',
      ...look,
      ...again('P', 8),
    ],
  },
  {
    title: 'a snapshot has overflowed, and is given more',
    script: [
      ...start('PO', 8, 32),
      'write %s 0 16 2',
      'write %s 16 8 3',
      'status %s',
      'write %s 0 8 4',
      'suspend %t',
      'suspend %s',
      'grow %c 64',
      'load %s 0 100 snapshot @%o @%c PO 8',
      'resume %s',
      'resume %t',
      'table %s',
      'status %s',
      'write %s 0 8 5',
      ...look,
      'suspend %t',
      'remove %s',
      'create %s 0 100 snapshot @%o @%c PO 8',
      'resume %t',
      ...look,
      'write %s 40 8 6',
      ...look,
    ],
  },
];

const transient: Edge[] = [
  {
    title: 'N: usage and a full COW',
    script: [
      ...start('N', 8, 24),
      'table %s',
      'write %t 0 9 2',
      'status %s',
      'read %s',
      'write %s 30 3 3',
      'status %s',
      'read %s',
      'write %s 60 3 4',
      'status %s',
      'read %s',
      'write %t 70 3 4',
      'read %t',
    ],
  },
];

export const edgesOfSpace: readonly Edge[] = [
  ...full,
  ...tight,
  largeArea,
  ...small,
  crossing,
  ...growing,
  ...transient,
];
