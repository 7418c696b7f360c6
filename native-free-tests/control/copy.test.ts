/** What the control thread does of a copy: it makes the files, and takes them away again. */

import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t from 'tap';
import * as v from 'valibot';
import { EBUSY } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { type ControlParts, controlMethods } from '../../src/control/commands.js';
import { startCopy } from '../../src/control/copy.js';
import { FakeQueue } from './fake-queue.js';

const directory = mkdtempSync(join(tmpdir(), 'mapperd-copy-'));
t.teardown(() => rmSync(directory, { recursive: true }));
/** As large as FakeQueue says that every source is. */
const sourceBytes = 1 << 20;

t.test('makes the files that are not there, as long as needed', async (t) => {
  const queue = new FakeQueue();
  const plain = join(directory, 'plain');
  const uri = join(directory, 'with space');
  const destinations = [plain, `file://${uri.replace(' ', '%20')}?direct=1`];
  const request = { source: 'dm:a', destinations, sourceOffset: 4096, destinationOffset: 512 };
  t.same(await startCopy(queue, request), { id: 1 });
  t.same(queue.copies, [{ ...request, intoZeroes: true }]);
  for (const path of [plain, uri]) {
    const { size, mode } = statSync(path);
    t.equal(size, sourceBytes - 4096 + 512);
    t.equal(mode & 0o777, 0o600);
  }
});

t.test('leaves alone what is there', async (t) => {
  const queue = new FakeQueue();
  const there = join(directory, 'there');
  const made = join(directory, 'made');
  writeFileSync(there, 'mine');
  const request = { source: 'dm:a', destinations: [made, there, 'dm:b'], length: 8192 };
  await startCopy(queue, request);
  t.match(queue.copies, [{ intoZeroes: false }]);
  t.equal(readFileSync(there, 'latin1'), 'mine');
  t.equal(statSync(made).size, 8192);
});

t.test('removes what it made when the copy cannot begin', async (t) => {
  const queue = new FakeQueue();
  const there = join(directory, 'still there');
  const made = join(directory, 'not made');
  writeFileSync(there, '');
  queue.before = (command) => {
    if (command === 'copy') throw new MapperError(EBUSY, 'no');
  };
  const request = { source: 'dm:a', destinations: [there, made] };
  await t.rejects(startCopy(queue, request), { message: 'no' });
  t.notOk(existsSync(made));
  t.ok(existsSync(there));
  const nowhere = join(directory, 'no/such/place');
  const both = { source: 'dm:a', destinations: [made, nowhere] };
  await t.rejects(startCopy(queue, both), { code: 'ENOENT', message: /^make ".*such\/place"/ });
  t.notOk(existsSync(made));
});

t.test('rejects a range that the source does not have', async (t) => {
  const queue = new FakeQueue();
  const made = join(directory, 'beyond');
  const request = { source: 'dm:a', destinations: [made], sourceOffset: 2 * sourceBytes };
  const text = `"dm:a" has ${sourceBytes} bytes, wanted ${2 * sourceBytes}`;
  await t.rejects(startCopy(queue, request), { code: 'EINVAL', message: text });
  t.notOk(existsSync(made));
});

t.test('rejects parameters that cannot be', async (t) => {
  const { schema } = controlMethods({} as ControlParts).get('copy') ?? {};
  if (schema === undefined) throw new Error('no such method');
  const accepts = (more: object): boolean =>
    v.safeParse(schema, { source: 'dm:a', destinations: ['/b'], ...more }).success;
  t.ok(accepts({ sourceOffset: 0, length: 2 ** 40, throttlePercent: 1, zeroes: true }));
  t.ok(accepts({ destinations: Array.from({ length: 8 }, (_, i) => `/${i}`) }));
  for (const wrong of [
    { destinations: [] },
    { destinations: Array.from({ length: 9 }, (_, i) => `/${i}`) },
    { destinations: ['/a\0b'] },
    { source: '' },
    { length: -1 },
    { length: 1.5 },
    { sourceOffset: 2 ** 60 },
    { throttlePercent: 0 },
    { throttlePercent: 101 },
    { intoZeroes: true },
    { noHole: true },
  ]) {
    t.notOk(accepts(wrong), JSON.stringify(wrong));
  }
});
