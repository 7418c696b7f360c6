/** Files of pre-shared keys. A refusal names the line, and nothing of a key. */

import { Buffer } from 'node:buffer';
import { parsePsk } from '../../src/gate/psk.js';
import type { Input } from './input.js';
import { damagedText } from './mutate.js';
import type { Random } from './random.js';
import { expect, refusalOf, type Subject, type SubjectMaker } from './subject.js';

function anyLine(random: Random): string {
  const key = random.bytes(random.pick([1, 16, 32, 64, 512, 513])).toString('hex');
  switch (random.below(8)) {
    case 0:
      return random.pick(['', '# for the night', '  ', '#']);
    case 1:
      return `#${random.bytes(random.between(1, 8)).toString('hex')}:${key}`;
    case 2:
      return `a:b:${key.toUpperCase()}`;
    default:
      return `${random.pick(['alice', 'bob', '\u00e9', 'x'.repeat(129), 'carol'])}:${key}`;
  }
}

/** How a file is read; a test puts something broken in its place. */
export type ParsePsk = typeof parsePsk;

function check(parse: ParsePsk, { pieces }: Input): void {
  const text = Buffer.concat(pieces).toString('utf8');
  let keys = new Map<string, Buffer>();
  const refusal = refusalOf(() => {
    keys = parse(text, '/psk');
  });
  if (refusal !== null) {
    expect(!/[0-9a-f]{16}/i.test(refusal.message), () => `it tells a key: ${refusal.message}`);
    expect(/line \d+: |found no keys/.test(refusal.message), () => `no line: ${refusal.message}`);
    return;
  }
  expect(keys.size > 0, 'took what has no keys');
  for (const [name, key] of keys) {
    expect(Buffer.byteLength(name) <= 3 * 128 && name !== '', `a name of ${name.length}`);
    expect(key.length >= 1 && key.length <= 512, `a key of ${key.length} bytes`);
    expect(text.toLowerCase().includes(key.toString('hex')), 'a key that is not in the file');
  }
}

export function pskSubject(parse: ParsePsk = parsePsk): Subject {
  return {
    name: 'psk',
    generate(random) {
      const pieces: Buffer[] = [];
      for (let left = random.pick([0, 1, 1, 2, 4]); left > 0; left--) {
        const line = `${anyLine(random)}\n`;
        pieces.push(Buffer.from(random.percent(15) ? damagedText(random, line) : line));
      }
      return { variant: random.bits(), pieces };
    },
    check: (input) => check(parse, input),
  };
}

export const psk: SubjectMaker = { name: 'psk', share: 5, make: () => pskSubject() };
