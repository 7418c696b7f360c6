/**
 * A crowd of clients that do what no client should, in a process of its own, so that its sockets,
 * memory and processor time are not the test's: `crowd-program WHERE EXPORT KIND COUNT`. It prints
 * "there" when all are in place, goes on until its standard input ends, and then prints how many
 * connections it has made.
 *
 *   readers     ask for much and take nothing
 *   greedy      ask for the largest reads and take nothing
 *   writers     send a payload a few bytes at a time
 *   unfinished  send half of a payload, and no more
 *   half-open   end their side behind a few requests, and do not take the answers
 *   stalled     stop in the middle of the handshake
 *   churn       connect and go, COUNT times a second
 *   garbage     the same, with bytes that are no handshake
 */

import { connect, type NetConnectOpts, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { CMD, encodeRequest, infoRequest, OPT, u32, u64 } from '../interop/raw-client.js';

const IHAVEOPT = 0x49484156454f5054n;
const MiB = 2 ** 20;
/** Connections that are being made. */
const atOnce = 25;

const [where = '', name = '', kind = '', count = '1'] = process.argv.slice(2);
const place: NetConnectOpts = /^\d+$/.test(where)
  ? { host: '127.0.0.1', port: Number(where) }
  : { path: where };
const sockets = new Set<Socket>();
let made = 0;

function option(number: number, data: Buffer): Buffer {
  return Buffer.concat([u64(IHAVEOPT), u32(number), u32(data.length), data]);
}

const go = Buffer.concat([u32(3), option(OPT.go, infoRequest(name))]);

function open(): Socket {
  made++;
  const socket = connect({ ...place, allowHalfOpen: true });
  socket.on('error', () => {});
  socket.on('close', () => sockets.delete(socket));
  sockets.add(socket);
  return socket;
}

/** Resolves when the greeting is there; nothing more is taken then. */
function greeted(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    socket.once('close', () => resolve());
    socket.once('data', () => {
      socket.pause();
      resolve();
    });
  });
}

/** In transmission, with the answers to the handshake thrown away. */
async function transmitting(): Promise<Socket> {
  const socket = open();
  await greeted(socket);
  socket.resume();
  await new Promise<void>((resolve) => {
    let bytes = 0;
    const take = (chunk: Buffer): void => {
      bytes += chunk.length;
      // The answer to GO without requests for information: 32 bytes, and the ACK of 20.
      if (bytes < 52) return;
      socket.off('data', take);
      socket.pause();
      resolve();
    };
    socket.on('data', take);
    socket.once('close', () => resolve());
    socket.write(go);
  });
  return socket;
}

function reads(socket: Socket, many: number, length: number): void {
  const requests = Array.from({ length: many }, (_, i) =>
    encodeRequest({ type: CMD.read, cookie: BigInt(i + 1), offset: 0, length }),
  );
  socket.write(Buffer.concat(requests));
}

const halfWrite = encodeRequest({ type: CMD.write, cookie: 1n, offset: 0, length: MiB });

const clients: Record<string, () => Promise<void>> = {
  async readers() {
    const socket = await transmitting();
    reads(socket, 300, 64 * 1024);
  },
  async greedy() {
    const socket = await transmitting();
    reads(socket, 20, 60 * MiB);
  },
  async writers() {
    const socket = await transmitting();
    socket.write(halfWrite);
    const timer = setInterval(() => socket.write(Buffer.alloc(16)), 20);
    socket.on('close', () => clearInterval(timer));
  },
  async unfinished() {
    const socket = await transmitting();
    socket.write(Buffer.concat([halfWrite, Buffer.alloc(MiB / 2)]));
  },
  async 'half-open'() {
    const socket = await transmitting();
    reads(socket, 50, 64 * 1024);
    socket.end();
  },
  async stalled() {
    const socket = open();
    await greeted(socket);
    // So that the end is heard of.
    socket.resume();
    socket.write(Buffer.concat([u32(3), u64(IHAVEOPT), u32(OPT.go), u32(1000), Buffer.alloc(10)]));
  },
};

/** A few thousandths of a second's worth at a time, however late the timer is. */
async function churn(perSecond: number, bytes: Buffer | null): Promise<void> {
  const begun = performance.now();
  let done = 0;
  while (!process.stdin.readableEnded) {
    const due = ((performance.now() - begun) / 1000) * perSecond;
    for (; done < due && sockets.size < 400; done++) {
      const socket = open();
      socket.on('connect', () => {
        if (bytes !== null) socket.end(bytes);
        else if ('path' in place) socket.destroy();
        else socket.resetAndDestroy();
      });
      socket.resume();
    }
    // Those that could not be made in time are left out.
    done = Math.max(done, Math.floor(due));
    await sleep(2);
  }
}

async function main(): Promise<void> {
  process.stdin.resume();
  const end = new Promise((resolve) => process.stdin.once('end', resolve));
  if (kind === 'churn' || kind === 'garbage') {
    process.stdout.write('there\n');
    await churn(Number(count), kind === 'churn' ? null : Buffer.alloc(64, 0x5a));
  } else {
    const one = clients[kind];
    if (one === undefined) throw new Error(`no such client: "${kind}"`);
    for (let left = Number(count); left > 0; left -= atOnce) {
      await Promise.all(Array.from({ length: Math.min(left, atOnce) }, one));
    }
    process.stdout.write('there\n');
    await end;
  }
  process.stdout.write(`made ${made}\n`);
}

main().then(
  () => process.exit(0),
  (error) => {
    process.stderr.write(`${error}\n`);
    process.exit(1);
  },
);
