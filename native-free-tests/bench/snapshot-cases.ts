/** What is measured of snapshots, and what is wanted of it; the rows are as in cases.ts. */

import type { EngineChoice } from '../../src/engine/choose.js';
import { against, atLeast, atMost, type Comparison, common, random } from './case.js';
import type { Load } from './fio.js';
import type { Place } from './places.js';
import { mapperd } from './servers.js';
import {
  mapperdSnapshots,
  nbdkitCow,
  qemuCopyBeforeWrite,
  qemuOverlay,
} from './snapshot-servers.js';

/** With fresh files each block is written for the first time. */
const firstTouch = (depth = 16): Load => ({ ...random('randwrite', depth), once: true });

export function snapshotCases(engine: EngineChoice): Comparison[] {
  return [
    ...freshCases(engine, 'directory'),
    ...freshCases(engine, 'xfs'),
    ...filledCases(engine),
    ...orderCases(engine),
    crowdCase(engine),
  ];
}

/**
 * QEMU copies 64 KiB or more at a time: only its first write into each 64 KiB copies anything, so
 * that it copies the less for each write, the more of the file a run gets round to.
 */
function freshCases(engine: EngineChoice, place: Place): Comparison[] {
  const fresh = { ...common, place, fresh: true, load: firstTouch() };
  const [suffix, where] = place === 'xfs' ? ['-xfs', ', on XFS'] : ['', ''];
  return [
    {
      ...fresh,
      name: `snapshot-first-touch${suffix}`,
      title: `4 KiB random first writes to an origin with a transient snapshot, depth 16${where}`,
      judged: mapperdSnapshots({ engine, loaded: 'origin' }),
      others: [against(qemuCopyBeforeWrite, atLeast('iops', 3), atMost('cpu', 1 / 3))],
    },
    {
      ...fresh,
      name: `snapshot-first-touch-persistent${suffix}`,
      title: `4 KiB random first writes to an origin with a persistent snapshot, depth 16${where}`,
      judged: mapperdSnapshots({ engine, loaded: 'origin', store: 'P' }),
      others: [against(qemuCopyBeforeWrite, atLeast('iops', 2))],
    },
    {
      ...fresh,
      name: `snapshot-write${suffix}`,
      title: `4 KiB random first writes to a transient snapshot, depth 16${where}`,
      judged: mapperdSnapshots({ engine, loaded: 'snapshot' }),
      others: [
        against(nbdkitCow, atLeast('iops', 1.2), atMost('cpu', 0.6)),
        against(qemuOverlay, atLeast('iops', 3)),
      ],
    },
  ];
}

/** Nothing is left to be copied. */
function filledCases(engine: EngineChoice): Comparison[] {
  const others = [against(mapperd({ engine, label: 'mapperd linear' }), atLeast('iops', 0.9))];
  const origin = mapperdSnapshots({ engine, loaded: 'origin', filled: true });
  const snapshot = mapperdSnapshots({ engine, loaded: 'snapshot', filled: true });
  return (['read', 'write'] as const).flatMap((direction) => {
    const filled = { ...common, load: random(`rand${direction}`), others };
    return [
      {
        ...filled,
        name: `snapshot-copied-origin-${direction}`,
        title: `4 KiB random ${direction} of an origin whose chunks are all copied, depth 16`,
        judged: origin,
      },
      {
        ...filled,
        name: `snapshot-exists-${direction}`,
        title: `4 KiB random ${direction} of a snapshot whose chunks all exist, depth 16`,
        judged: snapshot,
      },
    ];
  });
}

/**
 * What it gains to copy many chunks at a time and to complete them in any order. The table line of
 * the delay target knows whole milliseconds only.
 */
function orderCases(engine: EngineChoice): Comparison[] {
  const delayed = { engine, loaded: 'origin', delayMilliseconds: 1 } as const;
  return [1, 4, 16, 64].map((depth) => ({
    ...common,
    fresh: true,
    name: `snapshot-order-d${depth}`,
    title: `4 KiB random first writes, origin delayed by 1 ms, depth ${depth}`,
    load: firstTouch(depth),
    judged: mapperdSnapshots(delayed),
    others: [against(mapperdSnapshots({ ...delayed, label: 'mapperd, one by one', serial: true }))],
  }));
}

const crowd = 16;
/** Of an exception in memory, at most. */
const exceptionBytes = 16;
/** The daemon without snapshots, as in the case "memory". */
const plainMegabytes = 150;

function crowdCase(engine: EngineChoice): Comparison {
  const origin = { engine, loaded: 'origin' } as const;
  return {
    ...common,
    fresh: true,
    name: `snapshot-${crowd}`,
    title: `4 KiB random first writes to an origin with ${crowd} transient snapshots, depth 16`,
    load: firstTouch(),
    judged: mapperdSnapshots({ ...origin, snapshots: crowd }),
    others: [
      against(mapperdSnapshots({ ...origin, label: 'mapperd, one snapshot' })),
      against(mapperdSnapshots({ ...origin, label: 'mapperd linear', snapshots: 0 })),
    ],
    // All chunks of the file in all of the snapshots.
    megabytesMost: (bytes) =>
      plainMegabytes + Math.ceil((crowd * exceptionBytes * (bytes / 4096)) / 1e6),
  };
}
