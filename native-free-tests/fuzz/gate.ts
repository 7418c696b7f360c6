/**
 * The machine that looks for STARTTLS, in both its modes. It is compared with a reading of the
 * whole stream at once.
 */

import { Buffer } from 'node:buffer';
import { BeforeTls } from '../../src/gate/before-tls.js';
import { mix } from '../simulation/random.js';
import { handshakeNames } from './handshake.js';
import type { Input } from './input.js';
import { cutUp } from './mutate.js';
import { anyHandshake } from './nbd-options.js';
import { Random } from './random.js';
import { expect, type Subject, type SubjectMaker } from './subject.js';

interface Read {
  state: string;
  failed: boolean;
  /** Of each option that is answered here: its number, and the type of the answer. */
  readonly answers: string[];
  /** What goes to the queue: a stretch of the stream. */
  readonly from: number;
  readonly to: number;
}

/** What the machine should make of a stream. */
function readWhole(bytes: Buffer, required: boolean): Read {
  const answers: string[] = [];
  const end = (state: string, failed = false, from = 0, to = from): Read => {
    return { state, failed, answers, from, to };
  };
  if (bytes.length < 4) return end('haggling');
  const flags = bytes.readUInt32BE(0);
  if (flags > 3) return end('ended', true);
  const fixed = (flags & 1) === 1;
  let passing = -1;
  let at = 4;
  for (let options = 1; ; options++) {
    const state = passing >= 0 ? 'passing' : 'haggling';
    const from = Math.max(0, passing);
    if (bytes.length - at < 16) return end(state, false, from, passing >= 0 ? at : from);
    if (bytes.toString('latin1', at, at + 8) !== 'IHAVEOPT') {
      return passing >= 0 ? end('plain', false, from, bytes.length) : end('ended', true);
    }
    const option = bytes.readUInt32BE(at + 8);
    const length = bytes.readUInt32BE(at + 12);
    if (option === 5 && length === 0 && fixed) {
      const behind = bytes.length > at + 16;
      return end(behind ? 'ended' : 'starttls', behind, from, passing >= 0 ? at : from);
    }
    if (!required && (passing >= 0 || option !== 5)) {
      if (passing < 0) passing = at;
      at = Math.min(bytes.length, at + 16 + length);
      if (at === bytes.length) return end('passing', false, passing, at);
      continue;
    }
    if (option === 1 || !fixed || options > 1024 || length > 16 * 2 ** 20)
      return end('ended', true);
    if (bytes.length - at - 16 < length) return end('haggling');
    at += 16 + length;
    answers.push(`${option}:${option === 2 ? 1 : option === 5 ? 0x80000003 : 0x80000005}`);
    if (option === 2) return end('ended');
  }
}

/** The machine that is fuzzed; a test puts a broken one in its place. */
export type MakeGate = (mode: 'on' | 'require') => BeforeTls;

function check(make: MakeGate, { variant, pieces }: Input): void {
  const random = new Random(mix(variant, 2));
  const required = random.percent(50);
  const bytes = Buffer.concat(pieces);
  const wanted = readWhole(bytes, required);
  const machine = make(required ? 'require' : 'on');
  const replies: Uint8Array[] = [];
  const forwarded: Buffer[] = [];
  for (const chunk of cutUp(random, bytes)) {
    machine.push(chunk);
    replies.push(...machine.takeReplies());
    forwarded.push(...machine.takeForwarded().map((piece) => Buffer.from(piece)));
  }
  expect(machine.state === wanted.state, `it is ${machine.state}, wanted ${wanted.state}`);
  expect((machine.failure !== null) === wanted.failed, `the failure is ${machine.failure}`);
  const answers = replies.map((one) => {
    const reply = Buffer.from(one);
    expect(reply.toString('hex', 0, 8) === '0003e889045565a9', 'another magic');
    expect(reply.length === 20 + reply.readUInt32BE(16), 'a reply of another length');
    return `${reply.readUInt32BE(8)}:${reply.readUInt32BE(12)}`;
  });
  const [found, asked] = [answers.join(' '), wanted.answers.join(' ')];
  expect(found === asked, `answers [${found}], wanted [${asked}]`);
  expect(Buffer.concat(forwarded).equals(bytes.subarray(wanted.from, wanted.to)), () => {
    const [length, right] = [Buffer.concat(forwarded).length, wanted.to - wanted.from];
    return `${length} bytes forwarded, wanted ${right}, or not these`;
  });
}

export function gateSubject(make: MakeGate = (mode) => new BeforeTls(mode)): Subject {
  return {
    name: 'gate',
    generate: (random) => ({
      variant: random.bits(),
      pieces: anyHandshake(random, handshakeNames, true),
    }),
    check: (input) => check(make, input),
  };
}

export const gate: SubjectMaker = { name: 'gate', share: 50, make: () => gateSubject() };
