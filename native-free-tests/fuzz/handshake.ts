/** The handshake's machine, without a socket: whatever way the stream is cut, it says the same. */

import { Buffer } from 'node:buffer';
import type { ExportDirectory } from '../../src/nbd/export.js';
import { Handshake } from '../../src/nbd/handshake.js';
import { type ProtocolOptions, wholeProtocol } from '../../src/nbd/protocol-options.js';
import { directoryOf, exportInfo } from '../nbd/conversation.js';
import { mix } from '../simulation/random.js';
import { type JudgedExports, judgeHandshake } from './handshake-judge.js';
import type { Input } from './input.js';
import { cutUp } from './mutate.js';
import { anyHandshake, type Names } from './nbd-options.js';
import { Random } from './random.js';
import { expect, type Subject, type SubjectMaker } from './subject.js';

const sizeBytes = 2 ** 40 + 512;
const usual = ['base:allocation', 'qemu:allocation-depth'];
const named = '\u00e9tage';

const exports: JudgedExports = {
  byName: new Map([
    ['vol0', { sizeBytes, contexts: [...usual, 'qemu:dirty-bitmap:s1'] }],
    [named, { sizeBytes: 0, contexts: usual }],
  ]),
  defaultName: 'vol0',
};

export const handshakeDirectory: ExportDirectory = directoryOf(
  [
    exportInfo({ sizeBytes, description: 'linear' }),
    exportInfo({ name: named, sizeBytes: 0, readOnly: true, blockBytesMin: 512 }),
  ],
  'vol0',
  { vol0: ['s1'] },
);

export const handshakeNames: Names = {
  exports: ['vol0', named, ''],
  contexts: [...usual, 'qemu:dirty-bitmap:s1'],
};

interface Played {
  readonly output: Buffer;
  readonly taken: number;
  readonly state: string;
  readonly failure: string | null;
}

/** The machine that is fuzzed; a test puts a broken one in its place. */
export type MakeHandshake = (protocol: ProtocolOptions, secure: boolean) => Handshake;

const theirs: MakeHandshake = (protocol, secure) =>
  new Handshake(handshakeDirectory, protocol, secure, null);

function play(make: () => Handshake, chunks: readonly Buffer[]): Played {
  const handshake = make();
  const output = [...handshake.takeOutput()];
  let taken = 0;
  for (const chunk of chunks) {
    // A window with other bytes around, as a receive window of the arena has them.
    const window = Buffer.concat([Buffer.alloc(5, 0xee), chunk, Buffer.alloc(5, 0xee)]);
    taken += handshake.push(window, 5, 5 + chunk.length);
    window.fill(0xcc);
    output.push(...handshake.takeOutput());
    if (handshake.state !== 'haggling') break;
  }
  const { state, failure } = handshake;
  expect((handshake.outcome !== null) === (state === 'transmission'), 'an outcome out of place');
  return { output: Buffer.concat(output), taken, state, failure };
}

function check(makeOne: MakeHandshake, { variant, pieces }: Input): void {
  const circumstances = new Random(mix(variant, 11));
  const isWhole = circumstances.percent(80);
  const protocol = {
    ...wholeProtocol,
    structuredReplies: isWhole || circumstances.percent(50),
    extendedHeaders: isWhole || circumstances.percent(50),
    metaContexts: isWhole || circumstances.percent(50),
  };
  const secure = circumstances.percent(50);
  const make = (): Handshake => makeOne(protocol, secure);
  const bytes = Buffer.concat(pieces);
  const whole = play(make, [bytes]);
  const judged = judgeHandshake(bytes, whole.output, exports, null, protocol);
  expect(judged.state === whole.state, () => `it is ${whole.state}, wanted ${judged.state}`);
  expect(judged.outputAt === whole.output.length, 'bytes behind the last reply');
  if (whole.state === 'transmission') {
    expect(whole.taken === judged.clientAt, `${whole.taken} bytes taken of ${judged.clientAt}`);
  }
  if (whole.failure !== null) {
    expect(whole.state === 'ended', 'a failure and no end');
    expect(/found|wanted|not /.test(whole.failure), `no reason: ${whole.failure}`);
  }
  const cut = play(make, cutUp(new Random(mix(variant, 1)), bytes));
  for (const key of ['state', 'taken', 'failure'] as const) {
    expect(cut[key] === whole[key], () => `cut up: ${key} is ${cut[key]}, was ${whole[key]}`);
  }
  expect(cut.output.equals(whole.output), 'cut up: other replies');
}

export function handshakeSubject(make: MakeHandshake = theirs): Subject {
  return {
    name: 'handshake',
    generate: (random) => ({
      variant: random.bits(),
      pieces: anyHandshake(random, handshakeNames),
    }),
    check: (input) => check(make, input),
  };
}

export const handshake: SubjectMaker = {
  name: 'handshake',
  share: 45,
  make: () => handshakeSubject(),
};
