/**
 * A look at an export before the kernel gets it: what it is, and how it begins, which tells the
 * block size that its contents were made with.
 */

import { connect, type Socket } from 'node:net';
import { EIO, ETIME, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { attachMilliseconds } from '../base/limits.js';
import { fittingSocketPath } from '../base/unix-socket.js';
import type { ListenAddress } from '../engine/engine.js';
import * as nbd from '../nbd/constants.js';
import { ClientHandshake, type ExportFacts } from './handshake.js';

/** What of an export is looked at: a GPT's header of 4096-byte blocks is in the second of them. */
const beginningBytes = 8192;

export interface Probe extends ExportFacts {
  /** Up to `beginningBytes`; empty if they could not be had. */
  readonly beginning: Uint8Array;
}

/** Resolves when the connection has ended again. Throws MapperError. */
export async function probeExport(address: ListenAddress, exportName: string): Promise<Probe> {
  const socket =
    address.kind === 'unix'
      ? connect({ path: fittingSocketPath(address.path) })
      : connect({ host: address.host, port: address.port });
  const limit = setTimeout(() => {
    socket.destroy(new MapperError(ETIME, 'the daemon does not answer'));
  }, attachMilliseconds);
  try {
    return await converse(socket, exportName);
  } catch (error) {
    if (error instanceof MapperError) throw error;
    const { code } = error as NodeJS.ErrnoException;
    throw new MapperError(errnoOf(code), messageOf(error));
  } finally {
    clearTimeout(limit);
    socket.destroy();
  }
}

async function converse(socket: Socket, exportName: string): Promise<Probe> {
  const handshake = new ClientHandshake(exportName);
  const incoming = socket[Symbol.asyncIterator]() as AsyncIterator<Buffer>;
  const receive = async (): Promise<Buffer> => {
    const { value, done } = await incoming.next();
    if (done === true) throw handshake.ended();
    return value;
  };
  while (handshake.result === null) socket.write(handshake.feed(await receive()));
  const facts = handshake.result;
  const length = Math.min(beginningBytes, facts.sizeBytes);
  let reply: Buffer = Buffer.alloc(0);
  if (length > 0) {
    socket.write(request(nbd.CMD_READ, length));
    let wanted = nbd.SIMPLE_REPLY_BYTES;
    while (reply.length < wanted) {
      reply = Buffer.concat([reply, await receive()]);
      // A reply with an error has no data: what cannot be read says nothing.
      if (reply.length >= 8 && reply.readUInt32BE(4) === 0) {
        wanted = nbd.SIMPLE_REPLY_BYTES + length;
      }
    }
    if (reply.readUInt32BE(0) !== nbd.SIMPLE_REPLY_MAGIC) {
      throw new MapperError(EIO, 'the daemon answers out of step');
    }
  }
  socket.write(request(nbd.CMD_DISC, 0));
  // Its end frees the place among the connections that it has had.
  while ((await incoming.next()).done !== true);
  return { ...facts, beginning: reply.subarray(nbd.SIMPLE_REPLY_BYTES) };
}

/** u32 magic, u16 flags, u16 command, u64 handle, u64 offset, u32 length */
function request(command: number, length: number): Uint8Array {
  const bytes = Buffer.alloc(nbd.REQUEST_BYTES);
  bytes.writeUInt32BE(nbd.REQUEST_MAGIC, 0);
  bytes.writeUInt16BE(command, 6);
  bytes.writeUInt32BE(length, 24);
  return bytes;
}
