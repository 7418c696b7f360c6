/** What a control client sends: the head of an HTTP request, then WebSocket frames, right or wrong. */

import { Buffer } from 'node:buffer';
import { damaged } from './mutate.js';
import type { Random } from './random.js';
import { anySection } from './region-sections.js';
import { anyText } from './rpc-texts.js';

export const goodKey = 'dGhlIHNhbXBsZSBub25jZQ==';
/** What a server over TCP wants to see. */
export const token = 'c2VjcmV0IGFuZCBvZiBubyB1c2UgZWxzZXdoZXJl';
export const listedOrigin = 'https://board:8443';

/** The head of a request that should become a WebSocket, or of another one. */
export function anyHead(random: Random): Buffer {
  const odd = random.percent(20);
  const method = odd ? random.pick(['GET', 'POST', 'get', 'OPTIONS', 'PRI']) : 'GET';
  const path = odd ? random.pick(['/', '*', '/x?y', 'http://x/', `/${'y'.repeat(9000)}`]) : '/';
  const version = odd ? random.pick(['HTTP/1.1', 'HTTP/1.0', 'HTTP/2.0', 'HTTP']) : 'HTTP/1.1';
  const headers = [
    ['Host', random.pick(['x', '127.0.0.1:9', '[::1]', 'localhost', 'board:8443'])],
    ['Authorization', `Bearer ${token}`],
    ['Connection', odd ? random.pick(['Upgrade', 'close', 'keep-alive, Upgrade']) : 'Upgrade'],
    ['Upgrade', odd ? random.pick(['websocket', 'WebSocket', 'h2c', '']) : 'websocket'],
    ['Sec-WebSocket-Version', odd ? random.pick(['13', '8', '12', 'x']) : '13'],
    ['Sec-WebSocket-Key', odd ? random.pick([goodKey, 'x', '']) : goodKey],
  ];
  if (random.percent(20)) headers.push(['Sec-WebSocket-Extensions', 'permessage-deflate']);
  if (random.percent(5)) headers.push(['Sec-WebSocket-Extensions', 'x; "']);
  if (random.percent(10))
    headers.push(['Sec-WebSocket-Protocol', random.pick(['a, b', ',', 'a a'])]);
  if (random.percent(15)) headers.push(['Origin', random.pick(['http://x', listedOrigin, 'null'])]);
  if (random.percent(30)) {
    const other = random.pick(['', 'Bearer', `Basic ${token}`, `Bearer ${token.slice(1)}`]);
    headers[1] = ['Authorization', other];
  }
  if (random.percent(5)) headers.push(['Content-Length', random.pick(['5', '-1', '5, 6'])]);
  if (random.percent(3)) headers.push(['Transfer-Encoding', 'chunked']);
  if (odd && random.percent(30)) headers.splice(random.below(headers.length), 1);
  const lines = headers.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  const head = Buffer.from(`${method} ${path} ${version}\r\n${lines}\r\n`, 'latin1');
  return random.percent(5) ? damaged(random, head) : head;
}

interface FrameWish {
  readonly opcode: number;
  readonly payload: Buffer;
  readonly last?: boolean;
}

function frame(random: Random, { opcode, payload, last = true }: FrameWish): Buffer {
  const odd = random.percent(3);
  const first = (last ? 0x80 : 0) | opcode | (odd ? random.pick([0x10, 0x20, 0x40]) : 0);
  const isMasked = !random.percent(1);
  const form = payload.length > 65_535 ? 127 : payload.length > 125 ? 126 : payload.length;
  // Longer forms than are needed, and lengths that are lies.
  const chosen = random.percent(2) ? random.pick([126, 127]) : form;
  const length = random.percent(1) ? random.edge(33) : payload.length;
  const parts = [Buffer.from([first, (isMasked ? 0x80 : 0) | chosen])];
  if (chosen === 126) {
    const bytes = Buffer.alloc(2);
    bytes.writeUInt16BE(length & 0xffff);
    parts.push(bytes);
  } else if (chosen === 127) {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64BE(BigInt(length));
    parts.push(bytes);
  }
  if (!isMasked) return Buffer.concat([...parts, payload]);
  const mask = random.bytes(4);
  const masked = Buffer.from(payload);
  for (let at = 0; at < masked.length; at++) {
    masked[at] = (masked[at] as number) ^ (mask[at & 3] as number);
  }
  return Buffer.concat([...parts, mask, masked]);
}

/** The frames of one message, each a piece; a ping may be in between. */
function message(random: Random, opcode: number, payload: Buffer): Buffer[] {
  if (random.percent(85)) return [frame(random, { opcode, payload })];
  const cut = random.below(payload.length + 1);
  const pieces = [frame(random, { opcode, payload: payload.subarray(0, cut), last: false })];
  if (random.percent(20)) pieces.push(frame(random, { opcode: 9, payload: Buffer.from('?') }));
  pieces.push(frame(random, { opcode: 0, payload: payload.subarray(cut) }));
  return pieces;
}

function closing(random: Random): Buffer {
  const code = Buffer.alloc(2);
  code.writeUInt16BE(random.percent(70) ? random.pick([1000, 1001, 3000]) : random.edge(16));
  const payload = Buffer.concat([code, random.percent(20) ? random.bytes(5) : Buffer.alloc(0)]);
  return frame(random, { opcode: 8, payload: random.percent(20) ? Buffer.alloc(0) : payload });
}

/** Text, binary, ping, pong and close frames, and others. */
export function anyFrames(random: Random): Buffer[] {
  switch (random.below(12)) {
    case 0:
      return [
        frame(random, { opcode: random.pick([9, 10]), payload: random.bytes(random.below(130)) }),
      ];
    case 1:
      return random.percent(40) ? [closing(random)] : [];
    case 2: {
      const section = Buffer.concat(
        anySection(random, { paths: 3, regionSectors: 8, regions: 20, sector: 96 }),
      );
      const params = { name: 'vol0', bytes: section.length };
      const text = JSON.stringify({ jsonrpc: '2.0', id: 1, method: 'upload', params });
      const cut = random.below(section.length);
      const frames = [section.subarray(0, cut), section.subarray(cut)].map((payload) => {
        return frame(random, { opcode: 2, payload });
      });
      return [...message(random, 1, Buffer.from(text)), ...frames];
    }
    case 3:
      return message(random, 2, random.bytes(random.below(100)));
    case 4: {
      const opcode = random.below(16);
      const bytes = frame(random, { opcode, payload: random.bytes(random.below(20)) });
      return [random.percent(50) ? damaged(random, bytes) : bytes];
    }
    case 6:
      return message(random, 1, Buffer.from('{"jsonrpc":"2.0","method":"subscribe"}'));
    case 5: {
      const params = { name: 'vol0', sector: 96, first: random.below(30) };
      const text = JSON.stringify({ jsonrpc: '2.0', id: 2, method: 'download', params });
      return message(random, 1, Buffer.from(text));
    }
    default:
      return message(random, 1, Buffer.from(anyText(random)));
  }
}
