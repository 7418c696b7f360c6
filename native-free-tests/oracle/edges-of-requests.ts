/** Requests that are neither reads nor writes, and devices that stand where others do not. */

import { type Edge, look, start, types } from './edge.js';

const zeroes: Edge[] = [
  {
    title: 'zeroes are written like anything else',
    script: [
      ...start('P', 8, 200),
      'zero %s 3 2',
      ...look,
      'zero %s 16 24',
      ...look,
      'zero %s 18 2',
      'zero %t 30 30',
      ...look,
    ],
  },
];

const flushes: Edge[] = types.map((type) => ({
  title: `${type}: a flush, whatever has become of the snapshot`,
  script: [
    ...start(type, 8, 24),
    'flush %s',
    'flush %t',
    'write %s 0 8 2',
    'flush %s',
    'write %s 8 8 3',
    'status %s',
    'flush %s',
    'write %t 16 8 4',
    'status %s',
    'flush %s',
    'flush %t',
  ],
}));

const places: Edge[] = [
  {
    title: 'a snapshot behind another target',
    script: [
      'disk %o 100',
      'disk %c 200',
      'pour %o 0 100 1',
      'create %t 0 100 snapshot-origin @%o',
      'suspend %t',
      'create %s 0 48 error; 48 52 snapshot @%o @%c P 8',
      'resume %t',
      'table %s',
      'status %s',
      'peek %s 48 52',
      'write %s 60 8 2',
      'write %t 52 20 3',
      'write %t 10 20 4',
      'status %s',
      'peek %s 48 52',
      'read %o',
      'read %c',
    ],
  },
  {
    title: 'an origin behind another target',
    script: [
      'disk %o 100',
      'disk %c 200',
      'pour %o 0 100 1',
      'create %t 0 48 linear @%o 0; 48 52 snapshot-origin @%o',
      'suspend %t',
      'create %s 0 100 snapshot @%o @%c P 8',
      'resume %t',
      'table %t',
      'write %t 90 5 3',
      'write %t 44 8 4',
      'write %t 10 5 4',
      ...look,
    ],
  },
  {
    title: 'two devices over an origin',
    script: [
      ...start('P', 8, 200),
      'create %u 0 60 snapshot-origin @%o',
      'write %u 5 5 2',
      'write %t 50 5 3',
      ...look,
    ],
  },
  {
    title: 'an origin that is written past its devices',
    script: [...start('P', 8, 200), 'write %t 0 8 2', 'pour %o 4 8 3', ...look],
  },
  {
    title: 'a snapshot of a snapshot',
    script: [
      ...start('P', 8, 200),
      'disk %d 200',
      'create %v 0 100 snapshot-origin dm:%s',
      'suspend %v',
      'create %u 0 100 snapshot dm:%s @%d P 4',
      'resume %v',
      'write %t 0 10 2',
      'write %v 5 10 3',
      'write %u 12 3 4',
      'write %t 30 10 5',
      'status %u',
      'read %u',
      'read %v',
      'read %d',
      ...look,
    ],
  },
  {
    title: 'of two snapshots one becomes invalid',
    script: [
      ...start('P', 8, 24),
      'disk %d 200',
      'suspend %t',
      'create %u 0 100 snapshot @%o @%d PO 4',
      'resume %t',
      'write %t 0 8 2',
      'write %t 10 30 3',
      'status %u',
      'read %u',
      'read %d',
      ...look,
      'write %t 50 30 4',
      'status %u',
      'read %u',
      'suspend %t',
      'remove %s',
      'resume %t',
      'write %t 0 100 5',
      'status %u',
      'read %u',
      'read %d',
    ],
  },
  {
    title: 'no snapshot is left',
    script: [
      ...start('P', 8, 200),
      'write %t 0 8 2',
      'remove %s',
      'write %t 30 8 3',
      'create %s 0 100 snapshot @%o @%c P 8',
      ...look,
      'write %t 60 8 3',
      ...look,
    ],
  },
];

export const edgesOfRequests: readonly Edge[] = [...zeroes, ...flushes, ...places];
