/** Makes an input that fails as short as it gets, as long as it still fails. */

import { Buffer } from 'node:buffer';
import { type Input, inputBytes } from './input.js';

/** Attempts after which it is short enough. */
const attempts = 3000;

export async function minimise(
  input: Input,
  fails: (input: Input) => Promise<boolean>,
): Promise<Input> {
  let best = input;
  let left = attempts;
  const better = async (candidate: Input): Promise<boolean> => {
    if (left-- <= 0 || !(await fails(candidate))) return false;
    best = candidate;
    return true;
  };
  for (let before = -1; before !== measure(best) && left > 0; ) {
    before = measure(best);
    await withoutPieces(best, better, () => best);
    await shorterPieces(better, () => best);
    await plainerBytes(better, () => best);
  }
  return best;
}

/** What becomes less and less. */
function measure(input: Input): number {
  const set = input.pieces.reduce((sum, piece) => sum + piece.filter((byte) => byte).length, 0);
  return input.pieces.length * 1000 + inputBytes(input) + set;
}

type Better = (candidate: Input) => Promise<boolean>;

async function withoutPieces(input: Input, better: Better, best: () => Input): Promise<void> {
  for (let count = input.pieces.length; count >= 1; count = Math.floor(count / 2)) {
    for (let at = 0; at < best().pieces.length; ) {
      const { variant, pieces } = best();
      const rest = [...pieces.slice(0, at), ...pieces.slice(at + count)];
      if (rest.length === pieces.length || !(await better({ variant, pieces: rest }))) at += count;
    }
  }
}

function withPiece({ variant, pieces }: Input, place: number, piece: Buffer): Input {
  return { variant, pieces: pieces.map((one, at) => (at === place ? piece : one)) };
}

async function shorterPieces(better: Better, best: () => Input): Promise<void> {
  for (let place = 0; place < best().pieces.length; place++) {
    const first = best().pieces[place] as Buffer;
    for (let count = first.length; count >= 1; count = Math.floor(count / 2)) {
      for (let at = 0; at < (best().pieces[place] as Buffer).length; ) {
        const piece = best().pieces[place] as Buffer;
        const rest = Buffer.concat([piece.subarray(0, at), piece.subarray(at + count)]);
        if (!(await better(withPiece(best(), place, rest)))) at += count;
      }
    }
  }
}

async function plainerBytes(better: Better, best: () => Input): Promise<void> {
  for (let place = 0; place < best().pieces.length; place++) {
    const length = (best().pieces[place] as Buffer).length;
    if (length > 2000) continue;
    for (let at = 0; at < length; at++) {
      const piece = best().pieces[place] as Buffer;
      if (piece[at] === 0) continue;
      const plain = Buffer.from(piece);
      plain[at] = 0;
      await better(withPiece(best(), place, plain));
    }
  }
}
