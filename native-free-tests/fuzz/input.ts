/**
 * What a fuzzer plays to its subject: pieces of bytes, each something whole in its grammar (an
 * option, a request, a frame, a record, a line), and a number that decides on everything around
 * them (how the stream is cut, in which order disks answer, what has been configured).
 *
 * As JSON, a piece is text if it is printable, or else in hexadecimal digits behind "hex:".
 */

import { Buffer } from 'node:buffer';

export interface Input {
  readonly variant: number;
  readonly pieces: readonly Buffer[];
}

/** An input as it is kept in a file, and printed. */
export interface WrittenInput {
  readonly variant: number;
  readonly pieces: readonly string[];
}

const hexPrefix = 'hex:';

export function writeInput({ variant, pieces }: Input): WrittenInput {
  return { variant, pieces: pieces.map(writePiece) };
}

function writePiece(piece: Buffer): string {
  const text = piece.toString('utf8');
  const readable = /^[^\p{C}\ufffd]*$/u.test(text) && !text.startsWith(hexPrefix);
  return readable ? text : hexPrefix + piece.toString('hex');
}

export function readInput({ variant, pieces }: WrittenInput): Input {
  const read = (piece: string): Buffer =>
    piece.startsWith(hexPrefix)
      ? Buffer.from(piece.slice(hexPrefix.length), 'hex')
      : Buffer.from(piece);
  return { variant, pieces: pieces.map(read) };
}

export function inputBytes(input: Input): number {
  return input.pieces.reduce((sum, piece) => sum + piece.length, 0);
}
