/**
 * What is measured, and what is wanted of it. A new comparison is a new row: what fio does, where
 * the file lies, the server that is judged, those that it is judged against, and the ratios wanted
 * (the judged server's figure over the other's).
 */

import type { EngineChoice } from '../../src/engine/choose.js';
import {
  against,
  atLeast,
  atMost,
  type Case,
  type CopyCase,
  common,
  random,
  sequential,
} from './case.js';
import { copyWithCp, copyWithMapperctl, copyWithNbdcopy } from './copy-ways.js';
import { hostileCase } from './hostile.js';
import { mapperd, nbdkit, qemuNbd } from './servers.js';
import { snapshotCases } from './snapshot-cases.js';
import { switchCases } from './switch-cases.js';

export function allCases(engine: EngineChoice): Case[] {
  const ours = mapperd({ engine });
  const oursDirect = mapperd({ engine, direct: true });
  return [
    {
      ...common,
      name: 'randread-4k-d16',
      title: '4 KiB random read, depth 16',
      load: random('randread'),
      judged: ours,
      others: [
        against(nbdkit(), atLeast('iops', 1.8), atMost('cpu', 0.5)),
        against(qemuNbd(), atLeast('iops', 3)),
      ],
    },
    {
      ...common,
      name: 'randread-4k-d16-2jobs',
      title: '4 KiB random read, depth 16, two connections',
      load: random('randread', 16, 2),
      judged: ours,
      others: [against(nbdkit(), atLeast('iops', 1.2), atMost('cpu', 0.55)), against(qemuNbd())],
    },
    {
      ...common,
      name: 'randread-4k-d1',
      title: '4 KiB random read, depth 1',
      load: random('randread', 1),
      judged: ours,
      others: [against(nbdkit(), atMost('mean', 0.85)), against(qemuNbd())],
    },
    {
      ...common,
      name: 'randwrite-4k-d16',
      title: '4 KiB random write, depth 16',
      load: random('randwrite'),
      judged: ours,
      others: [against(nbdkit(), atLeast('iops', 1.15), atMost('cpu', 0.75)), against(qemuNbd())],
    },
    {
      ...common,
      name: 'randwrite-4k-d16-direct',
      title: '4 KiB random write, depth 16, O_DIRECT',
      load: random('randwrite'),
      judged: oursDirect,
      others: [
        against(nbdkit(), atLeast('iops', 1.15), atMost('cpu', 0.75)),
        // The nearest that nbdkit has: it puts no O_DIRECT on a file.
        against(nbdkit({ plugin: ['cache=none'] }), atLeast('iops', 1.15), atMost('cpu', 0.75)),
        against(qemuNbd({ direct: true })),
      ],
    },
    {
      ...common,
      name: 'randwrite-4k-d16-xfs',
      title: '4 KiB random write, depth 16, on XFS',
      load: random('randwrite'),
      place: 'xfs',
      judged: ours,
      others: [against(nbdkit(), atLeast('iops', 1.3), atMost('cpu', 0.65)), against(qemuNbd())],
    },
    {
      ...common,
      name: 'randwrite-4k-d16-xfs-direct',
      title: '4 KiB random write, depth 16, O_DIRECT, on XFS',
      load: random('randwrite'),
      place: 'xfs',
      judged: oursDirect,
      others: [
        against(nbdkit(), atLeast('iops', 1.3), atMost('cpu', 0.65)),
        against(nbdkit({ plugin: ['cache=none'] }), atLeast('iops', 1.3), atMost('cpu', 0.65)),
        against(qemuNbd({ direct: true })),
      ],
    },
    {
      ...common,
      name: 'seqread-128k-d16',
      title: '128 KiB sequential read, depth 16',
      load: sequential('read'),
      rate: 'throughput',
      judged: ours,
      others: [against(nbdkit(), atLeast('throughput', 1)), against(qemuNbd())],
    },
    {
      ...common,
      name: 'seqwrite-128k-d16',
      title: '128 KiB sequential write, depth 16',
      load: sequential('write'),
      rate: 'throughput',
      judged: ours,
      others: [against(nbdkit(), atLeast('throughput', 1)), against(qemuNbd())],
    },
    {
      ...common,
      name: 'randread-4k-d16-node',
      title: '4 KiB random read, depth 16, node engine',
      load: random('randread'),
      judged: mapperd({ engine: 'node' }),
      others: [against(qemuNbd(), atLeast('iops', 1))],
    },
    {
      ...common,
      name: 'randread-4k-d16-tcp',
      title: '4 KiB random read, depth 16, over TCP',
      extra: true,
      load: random('randread'),
      transport: 'tcp',
      judged: ours,
      others: [against(nbdkit()), against(qemuNbd())],
    },
    {
      kind: 'memory',
      name: 'memory',
      title: 'resident memory under 4 KiB random reads and writes, depth 16',
      load: random('randrw'),
      server: ours,
      megabytesMost: 150,
    },
    {
      kind: 'idle',
      name: 'idle',
      title: 'resident memory with 1000 idle connections',
      connections: 1000,
      server: ours,
      megabytesMost: 150,
    },
    ...snapshotCases(engine),
    ...switchCases(engine),
    copyCase(engine),
    hostileCase(engine),
  ];
}

function copyCase(engine: EngineChoice): CopyCase {
  return {
    kind: 'copy',
    name: 'copy',
    title: 'copying a file, every other MiB a hole, twice the size of the served one',
    judged: copyWithMapperctl(engine),
    others: [
      { way: copyWithNbdcopy, timeMost: 1 },
      { way: copyWithCp, timeMost: 1.2 },
    ],
  };
}

/** Those named, in the table's order; all but the extra ones when none is. */
export function chooseCases(cases: readonly Case[], only: readonly string[] | null): Case[] {
  if (only === null) return cases.filter((one) => one.extra !== true);
  const unknown = only.filter((name) => !cases.some((one) => one.name === name));
  if (unknown.length > 0) {
    const names = cases.map((one) => one.name).join(', ');
    throw new Error(`--only: found "${unknown.join(',')}", wanted some of ${names}`);
  }
  return cases.filter((one) => only.includes(one.name));
}
