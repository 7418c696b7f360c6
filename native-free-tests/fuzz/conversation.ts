/**
 * A whole conversation with a server: handshake and transmission, over a socket that is cut up,
 * slow or broken, with disks that answer in any order. As the gate brings it, a preamble is first.
 */

import { Buffer } from 'node:buffer';
import { ECONNRESET } from '../../src/base/errno.js';
import { packPreamble, unpackPreamble } from '../../src/nbd/piped.js';
import { mix } from '../simulation/random.js';
import { judgeHandshake } from './handshake-judge.js';
import type { Input } from './input.js';
import { cutUp, damaged } from './mutate.js';
import {
  failing,
  foreignExports,
  hostExports,
  hostNames,
  NbdHost,
  type PoisoningSocket,
} from './nbd-host.js';
import { anyHandshake, likelyHandshake, u32 } from './nbd-options.js';
import { anyRequests } from './nbd-requests.js';
import { refusePoison } from './poison.js';
import { Random } from './random.js';
import { ReplyJudge, readRequests } from './reply-judge.js';
import { expect, type Subject, type SubjectMaker } from './subject.js';

/** Turns after which a conversation hangs. */
const turnsMost = 50_000;

function isExtended(pieces: readonly Buffer[]): boolean {
  return pieces.some((piece) => piece.length === 16 && piece.readUInt32BE(8) === 11);
}

function anyConversation(random: Random): Buffer[] {
  const pieces = random.percent(90)
    ? likelyHandshake(random, hostNames, 2)
    : anyHandshake(random, hostNames);
  return [...pieces, ...anyRequests(random, isExtended(pieces))];
}

function anyPreamble(random: Random, clientFlags: number): Buffer {
  const host = random.percent(50) ? null : random.pick(['127.0.0.1', '::1', 'x', 'y'.repeat(255)]);
  const name = random.pick(['unix', '', '[::1]:9', '\u00e9'.repeat(random.below(600))]);
  const spentMilliseconds = random.percent(90) ? random.below(9000) : random.edge(32);
  const resume = random.percent(60) ? { clientFlags, spentMilliseconds } : null;
  const bytes = packPreamble({ peer: { name, host, secure: random.percent(50) }, resume });
  return random.percent(25) ? damaged(random, bytes) : bytes;
}

function anyPiped(random: Random): Buffer[] {
  const pieces = anyConversation(random);
  const preamble = anyPreamble(random, random.percent(90) ? 3 : random.edge(32));
  // A client that has been greeted has sent its flags.
  const greeted = preamble.length > 4 && ((preamble[4] as number) & 2) !== 0;
  return [preamble, ...(greeted ? pieces.slice(1) : pieces)];
}

interface Begin {
  /** Where the client's own bytes begin; -1: nowhere, it is not let in. */
  readonly at: number;
  readonly resumed: number | null;
  /** It comes from an address. */
  readonly foreign: boolean;
  /** So much of its time is gone that it may be over at any moment. */
  readonly late: boolean;
}

/** Those that do not come over the gate, from this machine. */
const theirs: Begin = { at: 0, resumed: null, foreign: false, late: false };

/** The preamble, from the description of its bytes. */
function readBegin(bytes: Buffer): Begin {
  const nobody = { at: -1, resumed: null, foreign: false, late: false };
  if (bytes.length < 4) return nobody;
  const end = 4 + bytes.readUInt32BE(0);
  if (end > 1024 || end > bytes.length || end < 14) return nobody;
  const hostEnd = 14 + bytes.readUInt8(13);
  if (hostEnd > end || !/^[\x20-\x7e]*$/.test(bytes.toString('latin1', 14, hostEnd))) return nobody;
  const greeted = ((bytes[4] as number) & 2) !== 0;
  const late = greeted && bytes.readUInt32BE(9) >= 9000;
  const foreign = ((bytes[4] as number) & 4) !== 0;
  return { at: end, resumed: greeted ? bytes.readUInt32BE(5) : null, foreign, late };
}

interface Played {
  /** The client has not taken everything that was sent. */
  readonly lossy: boolean;
  /** The daemon has ended it. */
  readonly evicted: boolean;
  /** Memory was short. */
  readonly pressed: boolean;
}

/** Plays the client's half. */
function play(
  host: NbdHost,
  socket: PoisoningSocket,
  bytes: Buffer,
  random: Random,
  trouble: Random,
): Played {
  const { engine } = host;
  const evicted = trouble.percent(6);
  const relax = trouble.percent(4) ? host.press(trouble) : null;
  if (random.percent(70)) engine.shuffle((limit) => random.below(limit));
  else {
    engine.pick = () => 0;
    engine.early = () => false;
  }
  socket.atOnce = random.percent(20);
  const slow = random.percent(15);
  const breaks = random.percent(5);
  if (slow) socket.takeReplies(false);
  const chunks = cutUp(random, bytes);
  const turn = random.below(chunks.length + 1);
  const most = random.pick([0, 1, 4]);
  for (const [number, chunk] of chunks.entries()) {
    socket.push(chunk);
    for (let left = random.between(0, most); left > 0; left--) host.turn();
    if (evicted && trouble.percent(20)) host.evict(trouble.percent(50));
    if (relax !== null && trouble.percent(5)) relax();
    if (number !== turn) continue;
    if (slow) socket.takeReplies(true);
    if (breaks) socket.breakSends();
  }
  if (breaks) socket.breakSends();
  const stuck = slow && random.percent(20);
  socket.takeReplies(!stuck);
  const reset = random.percent(10);
  if (!reset) {
    // What was asked for is answered before the end is told of, or behind it.
    for (let left = random.pick([0, 3, 50]); left > 0; left--) host.turn();
  }
  socket.end(reset ? ECONNRESET : 0);
  // Nobody waits for ever for somebody who is gone.
  if (stuck) socket.breakSends();
  relax?.();
  for (let turns = 0; !socket.closed; turns++) {
    expect(turns < turnsMost, `${turnsMost} turns, and the connection is open`);
    if (engine.underWay.length > 0) engine.turn();
    else if (turns % 8 < 7) engine.advance(0);
    else engine.advance(10);
  }
  for (let turns = 0; engine.underWay.length > 0; turns++) {
    expect(turns < turnsMost, `${turnsMost} turns, and operations are under way`);
    engine.turn();
  }
  // Whoever was to ask for memory again finds that it is over.
  if (relax !== null) engine.advance(20);
  return { lossy: breaks || stuck || reset, evicted, pressed: relax !== null };
}

function judge(bytes: Buffer, output: Buffer, begin: Begin, played: Played): void {
  if (begin.at < 0) {
    expect(output.length === 0, 'an answer to a client that was not let in');
    return;
  }
  if (played.lossy || begin.late) return;
  const client = bytes.subarray(begin.at);
  const { agreed, clientAt, outputAt } = judgeHandshake(
    client,
    output,
    begin.foreign ? foreignExports : hostExports,
    begin.resumed,
  );
  if (agreed === null) return;
  const { exportName } = agreed;
  const ground = {
    agreed,
    sizeBytes: hostExports.byName.get(exportName)?.sizeBytes ?? 0,
    failing: exportName === 'vol0' ? failing : null,
    fromZeroes: exportName !== 'snap' && exportName !== 'origin',
    ...played,
  };
  const asked = readRequests(client.subarray(clientAt), agreed.extended);
  new ReplyJudge(ground, asked, output, outputAt).run();
}

/** `tap` gets at what was sent before it is judged. */
export function conversationSubject(
  name: string,
  host: NbdHost,
  piped: boolean,
  tap: (output: Buffer) => Buffer = (output) => output,
): Subject {
  return {
    name,
    generate: (random) => ({
      variant: random.bits(),
      pieces: piped ? anyPiped(random) : anyConversation(random),
    }),
    check({ variant, pieces }: Input): void {
      const bytes = Buffer.concat(pieces);
      const random = new Random(mix(variant, 3));
      host.clear();
      const socket = host.connect(piped);
      const played = play(host, socket, bytes, random, new Random(mix(variant, 4)));
      const output = tap(socket.takeOutput());
      refusePoison(output, 'replies');
      host.checkRest();
      host.engine.arena.checkZeroes();
      const begin = piped ? readBegin(bytes) : theirs;
      if (piped) checkUnpacking(pieces[0] ?? u32(0));
      judge(bytes, output, begin, played);
    },
  };
}

/** A preamble that can be read says what it was packed from. */
function checkUnpacking(bytes: Buffer): void {
  const found = unpackPreamble(bytes);
  if (found === null || Buffer.byteLength(found.peer.host ?? '') > 255) return;
  const again = unpackPreamble(packPreamble(found));
  expect(again !== null && again.peer.secure === found.peer.secure, 'a preamble packed again');
  expect(again.resume?.clientFlags === found.resume?.clientFlags, 'the client flags of a preamble');
}

export const transmission: SubjectMaker = {
  name: 'transmission',
  share: 9,
  make: async () => conversationSubject('transmission', await NbdHost.make(), false),
};

export const piped: SubjectMaker = {
  name: 'piped',
  share: 4,
  make: async () => conversationSubject('piped', await NbdHost.make(), true),
};
