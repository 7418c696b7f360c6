/**
 * The control socket from the first byte of HTTP on: the server gets a connection whose other end
 * is the fuzzer. What comes back must be HTTP, then WebSocket frames, then JSON-RPC.
 */

import { Buffer } from 'node:buffer';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync } from 'node:fs';
import { Server as HttpServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import type { Log } from '../../src/base/log.js';
import type { Subscriber } from '../../src/control/commands.js';
import { Rpc } from '../../src/control/rpc.js';
import { ControlServer } from '../../src/control/server.js';
import { TcpAccess } from '../../src/control/tcp-access.js';
import type { QueueEvent } from '../../src/queue/commands.js';
import { mix } from '../simulation/random.js';
import { type ControlWorld, makeControlWorld } from './control-world.js';
import { anyFrames, anyHead, goodKey, listedOrigin, token } from './frames.js';
import type { Input } from './input.js';
import { cutUp } from './mutate.js';
import { Random } from './random.js';
import { within } from './rpc.js';
import { expect, type Subject, type SubjectMaker } from './subject.js';

const turnsMost = 2000;
const silent: Log = { debug() {}, info() {}, warn() {}, error() {} };

/** The server's end of a connection; what it writes is kept. */
class Wire extends Duplex {
  readonly written: Buffer[] = [];
  readonly gone = new Promise<void>((resolve) => this.once('close', () => resolve()));

  override _read(): void {}

  override _write(chunk: Buffer, encoding: BufferEncoding, done: () => void): void {
    this.written.push(Buffer.from(chunk as unknown as string, encoding));
    setImmediate(done);
  }

  override _final(done: () => void): void {
    setImmediate(done);
  }

  /** As sockets have it; the server's timers are none of the fuzzer's. */
  setTimeout(): this {
    return this;
  }

  setNoDelay(): this {
    return this;
  }

  setKeepAlive(): this {
    return this;
  }
}

/** A server has one for ever; each input has a control plane of its own. */
class RpcOfNow extends Rpc<Subscriber> {
  now: Rpc<Subscriber> | null = null;

  override answer(text: string, context: Subscriber): Promise<string | null> {
    return this.now === null ? super.answer(text, context) : this.now.answer(text, context);
  }
}

/** The HTTP server inside of a control server, which listens nowhere any more. */
async function httpOf(server: ControlServer): Promise<HttpServer> {
  const found: HttpServer[] = [];
  const { prototype } = HttpServer as { prototype: HttpServer };
  const { listen } = prototype;
  prototype.listen = function (this: HttpServer, ...args: unknown[]): HttpServer {
    found.push(this);
    return (listen as (...all: unknown[]) => HttpServer).apply(this, args);
  } as typeof listen;
  const folder = mkdtempSync(join(tmpdir(), 'mapperd-'));
  try {
    await server.listen(join(folder, 's'));
  } finally {
    prototype.listen = listen;
  }
  server.drain();
  rmSync(folder, { recursive: true, force: true });
  return found[0] as HttpServer;
}

const accepted = createHash('sha1')
  .update(`${goodKey}258EAFA5-E914-47DA-95CA-C5AB0DC85B11`)
  .digest('base64');

/** Where WebSocket frames begin; -1: there are none. */
function judgeHttp(client: Buffer, output: Buffer): number {
  if (output.length === 0) return -1;
  const end = output.indexOf('\r\n\r\n');
  expect(end >= 0, () => `no head: ${output.toString('latin1', 0, 100)}`);
  const [status = '', ...headers] = output.toString('latin1', 0, end).split('\r\n');
  const code = Number(/^HTTP\/1\.1 (\d{3}) [\x20-\x7e]*$/.exec(status)?.[1]);
  expect(code >= 100 && code < 600, () => `status line "${status}"`);
  expect(
    headers.every((line) => /^[A-Za-z-]+: [\x20-\x7e]*$/.test(line)),
    () => `headers ${headers}`,
  );
  if (code !== 101) return -1;
  const isUsual = client.includes(`\r\nSec-WebSocket-Key: ${goodKey}\r\n`);
  const isRight = headers.includes(`Sec-WebSocket-Accept: ${accepted}`);
  expect(isRight || !isUsual, () => `accepted as ${headers}`);
  return end + 4;
}

interface Frame {
  readonly opcode: number;
  readonly payload: Buffer;
}

function readFrames(output: Buffer, from: number): Frame[] {
  const frames: Frame[] = [];
  for (let at = from; at < output.length; ) {
    const left = output.length - at;
    expect(left >= 2, 'a frame cut short');
    const first = output[at] as number;
    let length = output[at + 1] as number;
    expect((first & 0xf0) === 0x80 && length <= 127, `a frame that begins with ${first}`);
    let start = at + 2;
    if (length === 126) {
      length = output.readUInt16BE(start);
      start += 2;
      expect(length > 125, `${length} in two bytes`);
    } else if (length === 127) {
      length = Number(output.readBigUInt64BE(start));
      start += 8;
      expect(length > 65_535, `${length} in eight bytes`);
    }
    expect(start + length <= output.length, 'a frame cut short');
    const opcode = first & 15;
    expect([1, 2, 8, 9, 10].includes(opcode), `a frame of kind ${opcode}`);
    frames.push({ opcode, payload: output.subarray(start, start + length) });
    at = start + length;
  }
  return frames;
}

const utf8 = new TextDecoder('utf-8', { fatal: true });
const codes = [-32700, -32600, -32601, -32602, -32000];

function judgeText(payload: Buffer): void {
  const message: unknown = JSON.parse(utf8.decode(payload));
  for (const one of Array.isArray(message) ? (message as unknown[]) : [message]) {
    const { jsonrpc, error } = one as { jsonrpc: string; error?: { code: number } };
    expect(jsonrpc === '2.0', () => `a message ${JSON.stringify(one)}`);
    expect(error === undefined || codes.includes(error.code), () => JSON.stringify(error));
  }
}

function judge(client: Buffer, output: Buffer): void {
  const from = judgeHttp(client, output);
  if (from < 0) return;
  const frames = readFrames(output, from);
  const close = frames.findIndex(({ opcode }) => opcode === 8);
  expect(close < 0 || close === frames.length - 1, 'frames behind the last one');
  let may = 0;
  for (const { opcode, payload } of frames) {
    if (opcode === 1) {
      judgeText(payload);
      const about = JSON.parse(payload.toString('utf8')) as { result?: { bytes?: number } };
      expect(may === 0, `${may} bytes of a download are missing`);
      may = about.result?.bytes ?? 0;
    } else if (opcode === 2) {
      may -= payload.length;
      expect(may >= 0, 'binary frames that were not announced');
    } else if (opcode === 8 && payload.length > 0) {
      const code = payload.readUInt16BE(0);
      expect(code >= 1000 && code < 5000, `closed with ${code}`);
      expect(utf8.decode(payload.subarray(2)).length < 124, 'a long reason');
    } else {
      expect(payload.length <= 125, 'a long control frame');
    }
  }
}

/** What clients hear of if they have asked for it. */
const events: readonly QueueEvent[] = [
  { event: 'device', name: 'vol0', what: 'resume' },
  { event: 'target', name: 'vol0', what: 'fill', percent: 80 },
  { event: 'log', level: 'info', fields: { peer: '\u00e9' }, text: 'something' },
];

/** What the server has sent; null: it could not send everything. */
async function play(
  http: HttpServer,
  server: ControlServer,
  bytes: Buffer,
  random: Random,
): Promise<Buffer | null> {
  const wire = new Wire();
  wire.on('error', () => {});
  http.emit('connection', wire);
  const most = random.pick([0, 0, 1, 3]);
  for (const chunk of cutUp(random, bytes)) {
    if (wire.destroyed || wire.readableEnded) break;
    wire.push(chunk);
    if (random.percent(10)) server.publish(random.pick(events));
    for (let left = random.between(0, most); left > 0; left--) {
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  const breaks = random.percent(10);
  if (breaks) wire.destroy();
  else if (!wire.destroyed) wire.push(null);
  wire.resume();
  await within(turnsMost, wire.gone, 'the connection is open');
  return breaks ? null : Buffer.concat(wire.written);
}

/** A server, and who it has in. */
interface Place {
  readonly server: ControlServer;
  readonly http: HttpServer;
}

async function makePlace(rpc: RpcOfNow, access: TcpAccess | null): Promise<Place> {
  const server = new ControlServer(rpc, silent, access);
  return { server, http: await httpOf(server) };
}

/** Of a request that a server with a token has let in. */
function judgeAccess(client: Buffer): void {
  const [head = ''] = client.toString('latin1').split('\r\n\r\n', 1);
  expect(head.includes(token), 'somebody without the token was let in');
  const origins = [...head.matchAll(/\r\nOrigin: ([^\r\n]*)/gi)].map(([, origin]) => origin);
  expect(
    origins.every((origin) => origin === listedOrigin),
    () => `somebody from ${origins} was let in`,
  );
}

/**
 * `tap` gets at what was sent before it is judged; `access` is that of one of the two servers, the
 * other one is as on a unix socket.
 */
export async function makeControlSubject(
  tap: (output: Buffer) => Buffer = (output) => output,
  access: TcpAccess = new TcpAccess(token, [listedOrigin]),
): Promise<Subject> {
  const rpc = new RpcOfNow(new Map(), silent);
  const open = await makePlace(rpc, null);
  const guarded = await makePlace(rpc, access);
  return {
    name: 'control',
    generate(random) {
      const pieces = [anyHead(random)];
      for (let left = random.pick([0, 1, 2, 4, 8]); left > 0; left--) {
        pieces.push(...anyFrames(random));
      }
      return { variant: random.bits(), pieces };
    },
    async check({ variant, pieces }: Input): Promise<void> {
      const world: ControlWorld = await makeControlWorld();
      rpc.now = world.rpc;
      const random = new Random(mix(variant, 10));
      const isGuarded = new Random(mix(variant, 12)).percent(30);
      const { http, server } = isGuarded ? guarded : open;
      const client = Buffer.concat(pieces);
      const output = await play(http, server, client, random);
      if (output !== null) {
        judge(client, tap(output));
        const letIn = output.toString('latin1', 0, 12) === 'HTTP/1.1 101';
        if (isGuarded && letIn) judgeAccess(client);
      }
      expect(world.faults.length === 0, () => `faults: ${world.faults.join('; ')}`);
    },
  };
}

export const control: SubjectMaker = {
  name: 'control',
  share: 3,
  make: () => makeControlSubject(),
};
