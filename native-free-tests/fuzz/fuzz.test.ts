/** Every subject with fixed seeds and a fresh one: 200,000 inputs in all. The rest is found cases. */

import { Buffer } from 'node:buffer';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { messageOf } from '../../src/base/errors.js';
import { running } from '../contract/engine-harness.js';
import { unavailable } from '../interop/programs.js';
import { cowSubject } from './cow.js';
import { EngineCows, makeEngine } from './engine-cows.js';
import { readInput, type WrittenInput, writeInput } from './input.js';
import { failureOf, inputOf, run } from './run.js';
import { subjects } from './subjects.js';

// A slow machine takes its time; nothing here is timed.
t.setTimeout(600_000);

const inputs = 200_000;
const fresh = Math.floor(Math.random() * 2 ** 31);
const seeds = [1, 20_261_121, 0x7fff_fff1, fresh];
const shares = subjects.reduce((sum, { share }) => sum + share, 0);

/** Failures that were mended, or inputs that are worth to be kept. */
interface FoundFile {
  readonly subject: string;
  readonly cases: readonly (WrittenInput & { readonly why: string })[];
}

const folder = join(process.cwd(), 'native-free-tests/fuzz/found');

t.test('what was found before does not come back', async (t) => {
  for (const file of readdirSync(folder).sort()) {
    const { subject, cases } = JSON.parse(readFileSync(join(folder, file), 'utf8')) as FoundFile;
    const maker = subjects.find(({ name }) => name === subject);
    if (maker === undefined) throw new Error(`${file}: found subject "${subject}", there is none`);
    for (const one of cases) {
      const error = await failureOf(await maker.make(), readInput(one));
      t.equal(error, null, `${subject}: ${one.why}`);
    }
  }
});

let played = 0;
for (const maker of subjects) {
  const most = Math.ceil((inputs * maker.share) / shares / seeds.length);
  t.test(`${maker.name}: ${most} inputs of each seed`, async (t) => {
    for (const seed of seeds) {
      const { failure } = await run(() => maker.make(), seed, most);
      if (failure === null) {
        played += most;
        t.pass(`seed ${seed}`);
        continue;
      }
      const { number, input, small, smallError } = failure;
      t.comment(JSON.stringify(writeInput(input)));
      t.comment(`made small: ${messageOf(smallError)}`);
      t.comment(JSON.stringify(writeInput(small)));
      const again = `npm run fuzz -- --target ${maker.name} --seed ${seed} --from ${number}`;
      t.fail(`${again} --inputs 1: ${messageOf(failure.error)}`);
    }
  });
}

t.test('that was all of them', async (t) => {
  const what = `fuzzed inputs of ${subjects.length} subjects, seeds ${seeds.join(', ')}`;
  t.comment(`counted: ${played} ${what}`);
  t.ok(played >= inputs);
});

for (const name of ['node', 'uring'] as const) {
  let why: string | false = false;
  const engine = await makeEngine(name).catch((error: unknown) => {
    why = unavailable(messageOf(error));
    return null;
  });
  t.test(`cow: 150 inputs on the engine ${name}`, { skip: why }, async (t) => {
    if (engine === null) return;
    await running(engine, async () => {
      const place = new EngineCows(engine);
      await place.start();
      const subject = cowSubject(place, () => {});
      for (let number = 0; number < 150; number++) {
        const { variant, pieces } = inputOf(subject, fresh, number);
        const image = Buffer.concat(pieces);
        // A device in memory has whole sectors, at least one.
        const whole = image.subarray(0, image.length - (image.length % 512));
        if (whole.length === 0) continue;
        const error = await failureOf(subject, { variant, pieces: [whole] });
        if (error === null) continue;
        t.fail(`input ${number} of seed ${fresh}: ${messageOf(error)}`);
        return;
      }
      t.pass(`seed ${fresh}`);
    });
  });
}
