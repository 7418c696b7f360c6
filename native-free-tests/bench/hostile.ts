/**
 * One good client alone, and among clients that do what none should: its throughput in both, turn
 * about, so that what else the machine does counts for both.
 */

import type { EngineChoice } from '../../src/engine/choose.js';
import { Crowd } from '../hostile/crowd.js';
import type { FigureRow, FiguresCase } from './case.js';
import { random } from './case.js';
import type { Conditions } from './compare.js';
import { runFio } from './fio.js';
import { residentMegabytes } from './proc.js';
import { startServer, stopServers } from './running-server.js';
import { mapperd } from './servers.js';

const ratioWanted = 0.9;

/** Who is there, and how many of them (of those that come and go: in a second). */
const crowds: readonly (readonly [string, number])[] = [
  ['readers', 250],
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
  { places, rounds, seconds, signal, note }: Conditions,
): Promise<readonly FigureRow[]> {
  const file = await places.file('directory');
  const server = await startServer(mapperd({ engine }), file, 'unix', places.sockets, signal);
  const { address } = server;
  if (address.kind !== 'unix') throw new Error('hostile clients connect to a unix socket');
  const speed = async (): Promise<number> => {
    return (await runFio(random('randread'), { seconds }, server.uri, signal)).iops;
  };
  /** The ratios of a few rounds: among these clients, over alone. */
  const compare = async (
    what: string,
    kinds: readonly (readonly [string, number])[],
  ): Promise<FigureRow> => {
    const ratios: number[] = [];
    for (let round = 0; round < rounds; round++) {
      const alone = await speed();
      const there: Crowd[] = [];
      try {
        for (const [kind, count] of kinds) {
          there.push(await Crowd.start(address.path, '', kind, count));
        }
        const among = await speed();
        for (const crowd of there) crowd.check();
        ratios.push(among / alone);
        note(`hostile: ${what}: ${alone.toFixed(0)} alone, ${among.toFixed(0)} among them`);
      } finally {
        for (const crowd of there) crowd.kill();
      }
    }
    const ratio = ratios.sort((a, b) => a - b)[Math.floor(ratios.length / 2)] ?? 0;
    return {
      what: `IOPS among ${what}, over those alone`,
      found: ratio.toFixed(2),
      wanted: `at least ${ratioWanted}`,
      met: ratio >= ratioWanted,
    };
  };
  try {
    await speed();
    const rows = [
      await compare('1000 that take or send nothing', crowds),
      await compare('4000 connects a second', [['churn', 4000]]),
    ];
    const resident = await residentMegabytes(server.program.pid);
    const found = `${resident.toFixed(0)} MB`;
    return [...rows, { what: 'resident memory afterwards', found, wanted: '', met: null }];
  } finally {
    await stopServers([server]);
  }
}
