/**
 * One good client alone, and among clients that do what none should: its throughput in both, turn
 * about, so that what else the machine does counts for both; the same with nbdkit. Clients that
 * come and go by the thousand take most of a processor themselves, which on a small machine a good
 * client that takes all there is misses whatever the server does. So among those it is measured
 * asking for half of what it gets alone, too; and what they take of the server has its own row.
 */

import { availableParallelism } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../../src/base/errors.js';
import type { EngineChoice } from '../../src/engine/choose.js';
import { Crowd } from '../hostile/crowd.js';
import type { FigureRow, FiguresCase } from './case.js';
import { random } from './case.js';
import type { Conditions } from './compare.js';
import { runFio } from './fio.js';
import { cpuSeconds, residentMegabytes } from './proc.js';
import { type RunningServer, startServer, stopServers } from './running-server.js';
import { mapperd, nbdkit } from './servers.js';
import { median } from './statistics.js';

const ratioWanted = 0.9;
/** Connections in a second. */
const churn = 4000;

/** Who is there, and how many of them (of those that come and go: in a second). */
type Kinds = readonly (readonly [string, number])[];
const crowds: Kinds = [
  ['readers', 250],
  // Only for mapperd: a server that takes memory for each of their reads would take 140 GB.
  ['greedy', 150],
  ['writers', 50],
  ['unfinished', 250],
  ['half-open', 150],
  ['stalled', 150],
];

export function hostileCase(engine: EngineChoice): FiguresCase {
  return {
    kind: 'figures',
    name: 'hostile',
    title: '4 KiB random read, depth 16, alone and among 1000 hostile clients',
    measure: (conditions) => measureAmongHostile(engine, conditions),
  };
}

async function measureAmongHostile(
  engine: EngineChoice,
  conditions: Conditions,
): Promise<readonly FigureRow[]> {
  const { places, signal } = conditions;
  const file = await places.file('directory');
  const rows: FigureRow[] = [];
  for (const spec of [mapperd({ engine }), nbdkit()]) {
    const judged = spec.label === 'mapperd';
    const server = await startServer(spec, file, 'unix', places.sockets, signal);
    try {
      rows.push(...(await measureServer(server, judged, conditions)));
    } catch (error) {
      if (judged || signal.aborted) throw error;
      // Another server need not bear all that.
      const what = `${spec.label}: among the same`;
      rows.push({ what, found: messageOf(error), wanted: '', met: null });
    } finally {
      await stopServers([server]);
    }
  }
  return rows;
}

async function measureServer(
  server: RunningServer,
  judged: boolean,
  { rounds, seconds, signal, note }: Conditions,
): Promise<FigureRow[]> {
  const { label } = server.spec;
  const speed = async (iops?: number): Promise<number> => {
    const load = { ...random('randread'), ...(iops === undefined ? {} : { iops }) };
    return (await runFio(load, { seconds }, server.uri, signal)).iops;
  };
  const best: number[] = [];
  /** The median of the ratios of a few rounds: among these clients, over alone. */
  const compare = async (what: string, kinds: Kinds): Promise<number> => {
    const ratios: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const alone = await speed();
      const among = await amidst(server, kinds, () => speed());
      best.push(alone);
      ratios.push(among / alone);
      note(`hostile: ${label}: ${what}: ${alone.toFixed(0)} alone, ${among.toFixed(0)} among them`);
    }
    return median(ratios);
  };
  /** The same of a client that asks for half of what it would get alone, for those that come and go. */
  const compareHalf = async (): Promise<number> => {
    const half = median(best) / 2;
    const ratios: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const alone = await speed(half);
      const among = await amidst(server, [['churn', churn]], () => speed(half));
      ratios.push(among / alone);
      note(`hostile: ${label}: of ${half.toFixed(0)}: ${alone.toFixed(0)}, ${among.toFixed(0)}`);
    }
    return median(ratios);
  };
  await speed();
  const kinds = judged ? crowds : crowds.filter(([kind]) => kind !== 'greedy');
  const many = kinds.reduce((sum, [, count]) => sum + count, 0);
  const among = await compare(`${many} that take or send nothing`, kinds);
  const rows = [
    {
      what: `${label}: IOPS among ${many} that take or send nothing, over those alone`,
      found: among.toFixed(2),
      wanted: judged ? `at least ${ratioWanted}` : '',
      met: judged ? among >= ratioWanted : null,
    },
  ];
  if (judged) rows.push(await ownTime(server, seconds));
  const churned = await compare(`${churn} connects a second`, [['churn', churn]]);
  const threads = availableParallelism();
  rows.push({
    what: `${label}: IOPS among ${churn} connects a second, all on ${threads} processors`,
    found: churned.toFixed(2),
    wanted: '',
    met: null,
  });
  const half = await compareHalf();
  rows.push({
    what: `${label}: of half of the IOPS alone, what is got among ${churn} connects a second`,
    found: half.toFixed(2),
    wanted: judged ? `at least ${ratioWanted}` : '',
    met: judged ? half >= ratioWanted : null,
  });
  const resident = await residentMegabytes(server.program.pid);
  const found = `${resident.toFixed(0)} MB`;
  return [...rows, { what: `${label}: resident memory afterwards`, found, wanted: '', met: null }];
}

/** What connections take of the server's processor time, which its other clients do not get. */
async function ownTime(server: RunningServer, seconds: number): Promise<FigureRow> {
  const share = await amidst(server, [['churn', churn]], async () => {
    // What it does for the first time takes longer.
    await sleep(1000);
    const before = await cpuSeconds(server.program.pid);
    const begun = performance.now();
    await sleep(seconds * 1000);
    const after = await cpuSeconds(server.program.pid);
    return ((after - before) * 1000) / (performance.now() - begun);
  });
  return {
    what: `${server.spec.label}: processor time for ${churn} connects a second, of one processor`,
    found: `${(share * 100).toFixed(1)} %`,
    wanted: `at most ${((1 - ratioWanted) * 100).toFixed(0)} %`,
    met: share <= 1 - ratioWanted,
  };
}

/** What `measure` finds while these clients are there. */
async function amidst(
  { address }: RunningServer,
  kinds: Kinds,
  measure: () => Promise<number>,
): Promise<number> {
  if (address.kind !== 'unix') throw new Error('hostile clients connect to a unix socket');
  const there: Crowd[] = [];
  try {
    for (const [kind, count] of kinds) {
      there.push(await Crowd.start(address.path, '', kind, count));
    }
    const found = await measure();
    for (const crowd of there) crowd.check();
    return found;
  } finally {
    for (const crowd of there) crowd.kill();
  }
}
