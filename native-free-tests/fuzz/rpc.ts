/** Texts of control clients, carried out one after the other by a control plane without files. */

import { Buffer } from 'node:buffer';
import type { Subscriber } from '../../src/control/commands.js';
import { Incoming, type Received } from '../../src/control/incoming.js';
import type { Topic } from '../../src/control/messages.js';
import { mix } from '../simulation/random.js';
import { makeControlWorld } from './control-world.js';
import type { Input } from './input.js';
import { Random } from './random.js';
import { anySection } from './region-sections.js';
import { judgeReply } from './rpc-judge.js';
import { anyText } from './rpc-texts.js';
import { expect, type Subject, type SubjectMaker } from './subject.js';

/** Turns of the event loop after which a request hangs. */
const turnsMost = 2000;

/** Bytes of an upload: a table that may fit the switch target, or other ones. */
function anyUpload(random: Random, bytes: number): Promise<Received> {
  const wishes = { paths: 3, regionSectors: 8, regions: 20, sector: 96 };
  const section = Buffer.concat(anySection(random, random.percent(70) ? wishes : {}));
  const all = Buffer.alloc(Math.min(bytes, 4096));
  section.copy(all);
  // As long as was announced, or as it should have been.
  const sent = random.percent(20) && all.length > 0 ? all : section;
  const incoming = new Incoming(sent.length);
  incoming.take(sent);
  return incoming.received;
}

/** Throws if the promise does not settle in so many turns. */
export async function within<T>(turns: number, promise: Promise<T>, what: string): Promise<T> {
  let settled = false;
  const settle = (): void => {
    settled = true;
  };
  promise.then(settle, settle);
  await null;
  for (let turn = 0; !settled; turn++) {
    expect(turn < turns, `${turns} turns, and no end: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
  return promise;
}

/** Makes a text's reply; a test puts something broken in its place. */
export type Answer = (text: string, reply: string | null) => string | null;

export function rpcSubject(answer: Answer = (_text, reply) => reply): Subject {
  return {
    name: 'rpc',
    generate(random) {
      const pieces: Buffer[] = [];
      for (let left = random.pick([1, 1, 2, 3, 5]); left > 0; left--) {
        pieces.push(Buffer.from(anyText(random)));
      }
      return { variant: random.bits(), pieces };
    },
    async check({ variant, pieces }: Input): Promise<void> {
      const { rpc, faults } = await makeControlWorld();
      const random = new Random(mix(variant, 9));
      const client: Subscriber = {
        topics: new Set<Topic>(),
        receive: async (bytes) => anyUpload(random, bytes),
        attach: (all) => expect(all.length === 2, `${all.length} pieces of a table`),
      };
      for (const piece of pieces) {
        const text = piece.toString('utf8');
        const reply = await within(turnsMost, rpc.answer(text, client), text);
        judgeReply(text, answer(text, reply));
      }
      expect(faults.length === 0, () => `faults: ${faults.join('; ')}`);
    },
  };
}

export const rpc: SubjectMaker = { name: 'rpc', share: 5, make: () => rpcSubject() };
