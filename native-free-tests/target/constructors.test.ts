/** What each target's table line may say: what is made of it, and what is refused how. */

import t from 'tap';
import { EINVAL, ENOENT } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import type { Log } from '../../src/base/log.js';
import { splitWords } from '../../src/device/table-text.js';
import {
  ArgumentReader,
  checkCount,
  deviceSector,
  parseNumber,
  quoted,
} from '../../src/target/arguments.js';
import { findTarget, targetTypes } from '../../src/target/registry.js';
import type { Target } from '../../src/target/target.js';
import { FakeHarness } from '../contract/fake-harness.js';
import { contextAt, silent } from '../contract/harness.js';

const harness = new FakeHarness();
harness.makeBacking('a', 1000);
harness.makeBacking('b', 1000);
harness.makeBacking('with blank', 1000);

async function create(line: string, log: Log = silent): Promise<Target> {
  const [length, name, ...args] = splitWords(line);
  const type = findTarget(name as string);
  if (type === null) throw new Error(`no target ${name}`);
  return await type.create(args, contextAt(harness, 64, Number(length), log));
}

async function refusal(line: string): Promise<MapperError> {
  try {
    await create(line);
  } catch (error) {
    if (error instanceof MapperError) return error;
    throw error;
  }
  throw new Error(`${line} was not refused`);
}

const sectors = 'wanted a number from 0 to 17592186044415';
const seconds = 'wanted a number from 0 to 4294967295';
const corrupt = 'flakey /fake/a 0 1 1 5 corrupt_bio_byte';

t.test('accepts table lines, and prints them', async (t) => {
  // The table line, what `table` prints if that is another, what `status` prints.
  const lines: [string, string | null, string][] = [
    ['100 linear /fake/a 0', null, ''],
    ['100 linear /fake/a 900', null, ''],
    ['100 linear /fake/a 00900', '/fake/a 900', ''],
    ['100 linear /fake/with\\ blank 1', null, ''],
    ['100 striped 1 100 /fake/a 0', null, '1 /fake/a 1 A'],
    ['96 striped 2 48 /fake/a 1 /fake/b 2', null, '2 /fake/a /fake/b 1 AA'],
    [
      '90 striped 3 5 /fake/a 0 /fake/with\\ blank 2 /fake/a 30',
      null,
      '3 /fake/a /fake/with\\ blank /fake/a 1 AAA',
    ],
    ['100 zero', '', ''],
    ['100 error', '', ''],
    ['100 error /fake/a 0', '', ''],
    ['100 delay /fake/a 0 0', null, '0 0 0'],
    ['100 delay /fake/a 0 5', null, '0 0 0'],
    ['100 delay /fake/a 0 5 /fake/b 1 6', null, '0 0 0'],
    ['100 delay /fake/a 0 5 /fake/b 1 6 /fake/b 1 4294967295', null, '0 0 0'],
    ['100 flakey /fake/a 5 1 2', '/fake/a 5 1 2 2 error_reads error_writes', ''],
    ['100 flakey /fake/a 5 1 0 0', '/fake/a 5 1 0 2 error_reads error_writes', ''],
    ['100 flakey /fake/a 0 4294967295 0', '/fake/a 0 4294967295 0 2 error_reads error_writes', ''],
    ['100 flakey /fake/a 0 0 1 1 error_reads', null, ''],
    ['100 flakey /fake/a 0 0 1 1 DROP_Writes', '/fake/a 0 0 1 1 drop_writes', ''],
    [
      '100 flakey /fake/a 0 0 1 2 error_writes error_reads',
      '/fake/a 0 0 1 2 error_reads error_writes',
      '',
    ],
    [
      '100 flakey /fake/a 0 0 1 6 drop_writes CORRUPT_BIO_BYTE 4294967295 R 255 4294967295',
      '/fake/a 0 0 1 6 drop_writes corrupt_bio_byte 4294967295 r 255 4294967295',
      '',
    ],
    [
      '100 flakey /fake/a 0 0 1 9 random_write_corrupt 5 random_read_corrupt 1000000000 ' +
        'corrupt_bio_byte 1 w 0 0',
      '/fake/a 0 0 1 9 corrupt_bio_byte 1 w 0 0 random_read_corrupt 1000000000 ' +
        'random_write_corrupt 5',
      '',
    ],
    [
      '100 flakey /fake/a 0 0 1 2 random_read_corrupt 0',
      '/fake/a 0 0 1 2 error_reads error_writes',
      '',
    ],
    ['100 memory', '', '0/100'],
  ];
  for (const [line, table, status] of lines) {
    const target = await create(line);
    const [length, name] = splitWords(line);
    const wanted = table ?? line.slice(`${length} ${name} `.length);
    t.equal(target.type.name, name);
    t.equal(target.table(), wanted, line);
    t.equal(target.status(), status, `status of ${line}`);
    const again = await create(`${length} ${name} ${target.table()}`);
    t.equal(again.table(), wanted, `${line}, again`);
  }
});

t.test('rejects wrong table lines in the words of the kernel', async (t) => {
  const lines: [string, string][] = [
    ['100 linear', 'Invalid argument count (found 0 arguments, wanted 2)'],
    ['100 linear /fake/a', 'Invalid argument count (found 1 argument, wanted 2)'],
    ['100 linear /fake/a 0 0', 'Invalid argument count (found 3 arguments, wanted 2)'],
    ['100 linear /fake/a 8k', `Invalid device sector (found "8k", ${sectors})`],
    ['100 linear /fake/a -1', `Invalid device sector (found "-1", ${sectors})`],
    ['100 linear /fake/a 0x10', `Invalid device sector (found "0x10", ${sectors})`],
    ['100 linear /fake/a 1e2', `Invalid device sector (found "1e2", ${sectors})`],
    [
      '100 linear /fake/a 17592186044416',
      `Invalid device sector (found "17592186044416", ${sectors})`,
    ],
    ['100 linear /fake/a 901', 'Device lookup failed: "/fake/a" has 1000 sectors, wanted 1001'],
    ['100 striped', 'Not enough arguments (found 0 arguments, wanted at least 2)'],
    ['100 striped 1', 'Not enough arguments (found 1 argument, wanted at least 2)'],
    ['100 striped 0 8', 'Invalid stripe count (found "0", wanted a number from 1 to 4294967295)'],
    [
      '100 striped two 8',
      'Invalid stripe count (found "two", wanted a number from 1 to 4294967295)',
    ],
    ['100 striped 1 0', 'Invalid chunk_size (found "0", wanted a number from 1 to 4294967295)'],
    [
      '101 striped 2 1 /fake/a 0 /fake/b 0',
      'Target length not divisible by number of stripes (found 101 sectors, ' +
        'wanted a multiple of 2)',
    ],
    [
      '100 striped 2 8 /fake/a 0 /fake/b 0',
      'Target length not divisible by chunk size (found 100 sectors, ' +
        'wanted a multiple of 2 times 8)',
    ],
    [
      '96 striped 2 8 /fake/a 0 /fake/b',
      'Not enough destinations specified (found 3, wanted 4 words)',
    ],
    [
      '96 striped 2 8 /fake/a 0 /fake/b 0 /fake/b 0',
      'Not enough destinations specified (found 6, wanted 4 words)',
    ],
    ['8 striped 4294967295 8', 'Target length not divisible by number of stripes'],
    ['96 striped 1 8 /fake/a x', `Couldn't parse stripe destination (found "x", ${sectors})`],
    [
      '96 striped 2 8 /fake/a 0 /fake/b 953',
      'Couldn\'t parse stripe destination: "/fake/b" has 1000 sectors, wanted 1001',
    ],
    ['100 zero 0', 'No arguments required (found 1 argument, wanted 0)'],
    ['100 memory 0', 'No arguments required (found 1 argument, wanted 0)'],
    ['100 error /fake/a x', `Invalid device sector (found "x", ${sectors})`],
    ['100 delay', 'Requires exactly 3, 6 or 9 arguments (found 0 arguments, wanted 3 or 6 or 9)'],
    ['100 delay /fake/a 0 1 /fake/a', 'Requires exactly 3, 6 or 9 arguments (found 4 arguments'],
    ['100 delay /fake/a x 1', `Invalid device sector (found "x", ${sectors})`],
    ['100 delay /fake/a 0 1.5', `Invalid delay (found "1.5", ${seconds})`],
    ['100 delay /fake/a 0 1 /fake/a 0 x', `Invalid delay (found "x", ${seconds})`],
    ['100 delay /fake/a 0 1 /fake/a 901 1', 'Device lookup failed: "/fake/a" has 1000 sectors'],
    ['100 flakey /fake/a 0 1', 'Invalid argument count (found 3 arguments, wanted at least 4)'],
    ['100 flakey /fake/a x 1 1', `Invalid device sector (found "x", ${sectors})`],
    ['100 flakey /fake/a 0 x 1', `Invalid up interval (found "x", ${seconds})`],
    ['100 flakey /fake/a 0 1 4294967296', `Invalid down interval (found "4294967296", ${seconds})`],
    [
      '100 flakey /fake/a 0 0 0',
      'Total (up + down) interval is zero (found 0 seconds, wanted at least 1)',
    ],
    [
      '100 flakey /fake/a 0 4294967295 1',
      'Interval overflow (found 4294967296 seconds, wanted at most 4294967295)',
    ],
    [
      '100 flakey /fake/a 0 1 1 drop_writes',
      'Invalid number of feature args (found "drop_writes", wanted a number from 0 to 11)',
    ],
    [
      '100 flakey /fake/a 0 1 1 12',
      'Invalid number of feature args (found "12", wanted a number from 0 to 11)',
    ],
    [
      '100 flakey /fake/a 0 1 1 2 drop_writes',
      'Invalid number of feature args (found "2", wanted at most 1, all that follow)',
    ],
    ['100 flakey /fake/a 0 1 1 1 drop', 'Unrecognised flakey feature requested (found "drop"'],
    ['100 flakey /fake/a 0 1 1 2 error_reads error_reads', 'Feature error_reads duplicated'],
    ['100 flakey /fake/a 0 1 1 2 drop_writes drop_writes', 'Feature drop_writes duplicated'],
    ['100 flakey /fake/a 0 1 1 2 error_writes error_writes', 'Feature error_writes duplicated'],
    [
      '100 flakey /fake/a 0 1 1 2 error_writes drop_writes',
      'Feature drop_writes conflicts with feature error_writes',
    ],
    [
      '100 flakey /fake/a 0 1 1 2 drop_writes error_writes',
      'Feature error_writes conflicts with feature drop_writes',
    ],
    [
      '100 flakey /fake/a 0 1 1 4 corrupt_bio_byte 1 r 0 0',
      'Feature corrupt_bio_byte requires 4 parameters (found 3, wanted 4)',
    ],
    [
      '100 flakey /fake/a 0 1 1 10 corrupt_bio_byte 1 r 0 0 corrupt_bio_byte 1 r 0 0',
      'Feature corrupt_bio_byte duplicated',
    ],
    [`100 ${corrupt} 0 r 0 0`, 'Invalid corrupt bio byte (found "0", wanted a number from 1 to'],
    [`100 ${corrupt} 1 x 0 0`, 'Invalid corrupt bio direction (r or w) (found "x", wanted r or w)'],
    [
      `100 ${corrupt} 1 r 256 0`,
      'Invalid corrupt value to write into bio byte (0-255) (found "256", wanted a number from 0',
    ],
    [`100 ${corrupt} 1 r 0 x`, 'Invalid corrupt bio flags mask (found "x", wanted'],
    [
      '100 flakey /fake/a 0 1 1 1 random_read_corrupt',
      'Feature random_read_corrupt requires a parameter',
    ],
    [
      '100 flakey /fake/a 0 1 1 1 random_write_corrupt',
      'Feature random_write_corrupt requires a parameter',
    ],
    [
      '100 flakey /fake/a 0 1 1 2 random_read_corrupt 1000000001',
      'Invalid random corrupt argument (found "1000000001", wanted a number from 0 to 1000000000)',
    ],
    [
      '100 flakey /fake/a 0 1 1 4 random_write_corrupt 1 random_write_corrupt 1',
      'Feature random_write_corrupt duplicated',
    ],
    [
      '100 flakey /fake/a 0 1 1 6 drop_writes corrupt_bio_byte 1 w 0 0',
      'drop_writes is incompatible with random_write_corrupt or corrupt_bio_byte with the WRITE ' +
        'flag set',
    ],
    [
      '100 flakey /fake/a 0 1 1 3 error_writes random_write_corrupt 1',
      'error_writes is incompatible with random_write_corrupt or corrupt_bio_byte with the WRITE ' +
        'flag set',
    ],
    [
      '100 flakey /fake/a 0 1 1 3 error_reads random_read_corrupt 1',
      'error_reads is incompatible with random_read_corrupt or corrupt_bio_byte with the READ ' +
        'flag set',
    ],
  ];
  for (const [line, text] of lines) {
    const { errno, message } = await refusal(line);
    t.equal(errno, EINVAL, line);
    t.equal(message.slice(0, text.length), text, line);
  }
});

t.test('rejects a device that cannot be opened with the reason and its errno', async (t) => {
  for (const [line, text] of [
    ['100 linear /fake/none 0', 'Device lookup failed: cannot open "/fake/none"'],
    ['100 striped 1 4 /fake/none 0', `Couldn't parse stripe destination: cannot open "/fake/none"`],
    ['100 error /fake/none 0', 'Device lookup failed: cannot open "/fake/none"'],
    ['100 delay /fake/none 0 1', 'Device lookup failed: cannot open "/fake/none"'],
    ['100 flakey /fake/none 0 1 1', 'Device lookup failed: cannot open "/fake/none"'],
  ] as const) {
    const { errno, message } = await refusal(line);
    t.equal(errno, ENOENT, line);
    t.equal(message, text, line);
  }
});

t.test('accepts surplus words where the kernel does, and warns of them', async (t) => {
  const warnings: string[] = [];
  const log: Log = { ...silent, warn: (_fields, text) => warnings.push(text) };
  await create('100 error one', log);
  t.match(warnings.pop(), /error target ignores its arguments/);
  await create('100 error one two three', log);
  t.match(warnings.pop(), /error target ignores its arguments/);
  const flakey = await create('100 flakey /fake/a 0 1 1 1 drop_writes error_reads', log);
  t.match(warnings.pop(), /flakey target ignores arguments/);
  t.equal(flakey.table(), '/fake/a 0 1 1 1 drop_writes');
  await create('100 flakey /fake/a 0 1 1 1 drop_writes', log);
  await create('100 error /fake/a 0', log);
  t.same(warnings, []);
});

t.test('finds targets by their exact names', (t) => {
  t.same(
    targetTypes.map((type) => type.name),
    targetTypes.map((type) => type.name).toSorted(),
  );
  t.equal(findTarget('linear')?.name, 'linear');
  t.equal(findTarget('Linear'), null);
  t.equal(findTarget('constructor'), null);
  t.end();
});

t.test('tells what targets can do', async (t) => {
  for (const line of ['100 zero', '100 memory']) {
    const { backings, features } = await create(line);
    t.same(backings, []);
    const { writable, trim, fastZero, extents, blockBytes } = features;
    t.same([writable, trim, fastZero, extents, blockBytes], [true, true, true, true, 1], line);
  }
  t.equal((await create('100 error /fake/a 0')).features.extents, false);
  t.same((await create('100 error /fake/a 0')).backings, [], 'a flush does not reach the device');
  const striped = await create('90 striped 3 5 /fake/a 0 /fake/b 2 /fake/a 30');
  t.equal(striped.maxIoSectors, 5);
  t.same(
    striped.backings.map((backing) => backing.name),
    ['/fake/a', '/fake/b'],
  );
  const delay = await create('100 delay /fake/a 0 5 /fake/b 1 6 /fake/b 1 4');
  t.equal(delay.backings.length, 2);
});

t.test('parses words of a line', (t) => {
  const bounds = { min: 3, max: 12, text: 'Invalid thing' };
  t.equal(parseNumber('12', bounds), 12);
  t.equal(parseNumber('0000000000000000000000003', bounds), 3);
  t.equal(parseNumber('17592186044415', deviceSector), 2 ** 44 - 1);
  for (const word of ['', '2', '13', '+3', ' 3', '3 ', '3.0', '٣', '99999999999999999999999']) {
    t.throws(() => parseNumber(word, bounds), { message: /^Invalid thing \(found "/ }, `"${word}"`);
  }
  t.throws(() => parseNumber(undefined, bounds), {
    message: 'Invalid thing (found the end of the line, wanted a number from 3 to 12)',
  });
  t.equal(quoted('x'.repeat(65)), `"${'x'.repeat(64)}..."`);
  const reader = new ArgumentReader(['3', 'a', 'b', 'c', '3', 'd']);
  t.equal(reader.count(bounds), 3);
  t.same([reader.next(), reader.next(), reader.next()], ['a', 'b', 'c']);
  t.throws(() => reader.count(bounds), {
    message: 'Invalid thing (found "3", wanted at most 1, all that follow)',
  });
  t.equal(reader.left, 1);
  t.equal(reader.next(), 'd');
  t.equal(reader.next(), undefined);
  t.throws(() => checkCount(['a'], 'Bad count', 2, 4), {
    message: 'Bad count (found 1 argument, wanted 2 or 4)',
  });
  t.end();
});
