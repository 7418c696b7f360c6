/**
 * A program of its own, so that its memory is not the server's: `idle-client SOCKET COUNT` makes so
 * many connections, each taken through the handshake into transmission, prints "connected", and
 * holds them until its standard input ends. It fails if the server has ended one by then.
 */

import { connect, type Socket } from 'node:net';
import { messageOf } from '../../src/base/errors.js';
import {
  CLIENT_FLAGS_BYTES,
  FLAG_FIXED_NEWSTYLE,
  FLAG_NO_ZEROES,
  GREETING_BYTES,
  IHAVEOPT_HIGH,
  IHAVEOPT_LOW,
  OPT_GO,
  OPTION_HEADER_BYTES,
  OPTION_REPLY_HEADER_BYTES,
  REP_ACK,
  REP_ERROR_BIT,
} from '../../src/nbd/constants.js';

/** GO for the default export, without requests for information: u32 0, u16 0. */
function goMessage(): Buffer {
  const dataBytes = 6;
  const message = Buffer.alloc(CLIENT_FLAGS_BYTES + OPTION_HEADER_BYTES + dataBytes);
  message.writeUInt32BE(FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES, 0);
  message.writeUInt32BE(IHAVEOPT_HIGH, CLIENT_FLAGS_BYTES);
  message.writeUInt32BE(IHAVEOPT_LOW, CLIENT_FLAGS_BYTES + 4);
  message.writeUInt32BE(OPT_GO, CLIENT_FLAGS_BYTES + 8);
  message.writeUInt32BE(dataBytes, CLIENT_FLAGS_BYTES + 12);
  return message;
}

/** Whether the replies to GO, all that follows the greeting, are complete. Throws if refused. */
function isAccepted(replies: Buffer): boolean {
  let at = 0;
  while (replies.length >= at + OPTION_REPLY_HEADER_BYTES) {
    const type = replies.readUInt32BE(at + 12);
    if (type === REP_ACK) return true;
    if (type >= REP_ERROR_BIT) throw new Error(`GO was answered with error ${type.toString(16)}`);
    at += OPTION_REPLY_HEADER_BYTES + replies.readUInt32BE(at + 16);
  }
  return false;
}

function openIdle(path: string): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    let received = Buffer.alloc(0);
    const closed = (): void => reject(new Error('the server ended the handshake'));
    const take = (bytes: Buffer): void => {
      const greeted = received.length >= GREETING_BYTES;
      received = Buffer.concat([received, bytes]);
      if (received.length < GREETING_BYTES) return;
      if (!greeted) socket.write(goMessage());
      try {
        if (!isAccepted(received.subarray(GREETING_BYTES))) return;
      } catch (error) {
        reject(error);
        return;
      }
      socket.off('data', take);
      socket.off('error', reject);
      socket.off('close', closed);
      resolve(socket);
    };
    socket.on('data', take);
    socket.on('error', reject);
    socket.on('close', closed);
  });
}

async function main(path: string, count: number): Promise<void> {
  let dropped = 0;
  for (let made = 0; made < count; made++) {
    const socket = await openIdle(path).catch((error) => {
      throw new Error(`connection ${made + 1} of ${count}: ${messageOf(error)}`);
    });
    socket.on('error', () => {});
    socket.on('close', () => dropped++);
    socket.resume();
  }
  process.stdout.write('connected\n');
  process.stdin.resume();
  await new Promise((resolve) => process.stdin.once('close', resolve));
  if (dropped > 0) throw new Error(`the server dropped ${dropped} of ${count} connections`);
}

main(process.argv[2] ?? '', Number(process.argv[3])).then(
  () => process.exit(0),
  (error) => {
    process.stderr.write(`${messageOf(error)}\n`);
    process.exit(1);
  },
);
