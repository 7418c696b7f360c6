/** The engine contract: files. What the engine did is checked through node:fs. */

import { Buffer } from 'node:buffer';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  closeSync,
  fsyncSync,
  linkSync,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import type { Test } from 'tap';
import { EACCES, EAGAIN, EINVAL, ENOENT, ENOSYS, EOPNOTSUPP } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import {
  COPY_BY_CLONE,
  COPY_BY_SYSTEM,
  type Completion,
  type EngineFile,
  FUA,
} from '../../src/engine/engine.js';
import { drive, type Harness } from './drive.js';
import type { MakeEngine } from './engine-suite.js';
import { fillPattern, patternMismatch, random } from './pattern.js';

const { ENOTTY, EXDEV } = constants.errno;

/** A file with that content in a directory of the test's own. */
type MakePath = (t: Test, content?: string | Buffer) => string;

const KiB = 1024;
const MiB = 1024 * KiB;
const buffered = { writable: true, direct: false };
const readOnly = { writable: false, direct: false };
const direct = { writable: true, direct: true };

/** Engines may do small transfers another way than large ones. */
const lengths = [1, 512, 4096, 65_536, 65_537, 300_000, MiB];

export function fileTests(t: Test, makeEngine: MakeEngine): void {
  const path = (t: Test, content: string | Buffer = ''): string => {
    const file = join(t.testdir(), 'file');
    writeFileSync(file, content);
    return file;
  };

  t.test('writes and reads back what it was given, beyond 4 GiB too', async (t) => {
    const name = path(t);
    await drive(await makeEngine(), async (io) => {
      const file = io.engine.open(name, buffered);
      t.match(file, { path: name, writable: true, direct: false, alignmentBytes: 1 });
      const source = io.memory(MiB);
      const target = io.memory(MiB);
      for (const offset of [0, 4097, 2 ** 31 - 100, 2 ** 32 - 1, 2 ** 33 + 4096]) {
        for (const length of lengths) {
          fillPattern(io.bytes(source, length), offset, length);
          const written = await io.wait((c) => file.write(offset, source, length, 0, c));
          t.equal(written, length, `wrote ${length} at ${offset}`);
          t.equal(mismatchInFile(name, offset, length, length), -1, 'the file has it');
          io.bytes(target, length).fill(0);
          const read = await io.wait((c) => file.read(offset, target, length, c));
          t.equal(read, length, `read ${length} at ${offset}`);
          t.equal(patternMismatch(io.bytes(target, length), offset, length), -1, 'so has memory');
        }
      }
      file.close();
    });
  });

  t.test('moves exactly the bytes asked for', async (t) => {
    const name = path(t, Buffer.alloc(1000, 'f'));
    await drive(await makeEngine(), async (io) => {
      const file = io.engine.open(name, buffered);
      const memory = io.memory(4096);
      io.bytes(memory, 4096).fill(0x6d);
      t.equal(await io.wait((c) => file.read(300, memory + 100, 50, c)), 50);
      const expected = Buffer.alloc(4096, 0x6d).fill('f', 100, 150);
      t.ok(expected.equals(io.bytes(memory, 4096)), 'memory around it is as it was');
      t.equal(await io.wait((c) => file.write(500, memory, 20, 0, c)), 20);
      const content = Buffer.alloc(1000, 'f').fill(0x6d, 500, 520);
      t.ok(content.equals(readFileSync(name)), 'the file around it is as it was');
      t.equal(await io.wait((c) => file.read(0, memory, 0, c)), 0, 'nothing can be read');
      t.equal(await io.wait((c) => file.write(0, memory, 0, 0, c)), 0, 'nothing can be written');
      t.equal(file.size(), 1000);
      file.close();
    });
  });

  t.test('reads short at the end of the file', async (t) => {
    const name = path(t, 'x'.repeat(1000));
    await drive(await makeEngine(), async (io) => {
      const file = io.engine.open(name, readOnly);
      const memory = io.memory(MiB);
      for (const length of [4096, MiB]) {
        t.equal(await io.wait((c) => file.read(0, memory, length, c)), 1000);
        t.equal(await io.wait((c) => file.read(999, memory, length, c)), 1);
        t.equal(await io.wait((c) => file.read(1000, memory, length, c)), 0);
        t.equal(await io.wait((c) => file.read(2 ** 40, memory, length, c)), 0);
      }
      file.close();
    });
  });

  t.test('asks for the size anew each time', async (t) => {
    const name = path(t);
    await drive(await makeEngine(), async (io) => {
      const file = io.engine.open(name, buffered);
      const memory = io.memory(4096);
      t.equal(file.size(), 0);
      await io.wait((c) => file.write(10_000, memory, 4096, 0, c));
      t.equal(file.size(), 14_096, 'after a write beyond the end');
      truncateSync(name, 2 ** 41 + 1);
      t.equal(file.size(), 2 ** 41 + 1, 'after somebody made it longer');
      truncateSync(name, 5);
      t.equal(file.size(), 5, 'after somebody cut it');
      file.close();
    });
  });

  t.test('makes writes durable one by one, or all of them', async (t) => {
    const name = path(t);
    await drive(await makeEngine(), async (io) => {
      const file = io.engine.open(name, buffered);
      const memory = io.memory(MiB);
      fillPattern(io.bytes(memory, MiB), 0, 1);
      for (const length of [512, MiB]) {
        t.equal(await io.wait((c) => file.write(0, memory, length, FUA, c)), length, 'FUA');
        t.equal(mismatchInFile(name, 0, length, 1), -1, 'the file has it');
        t.equal(await io.wait((c) => file.write(0, memory, length, 0, c)), length);
        t.equal(await io.wait((c) => file.flush(c)), 0, 'flush');
      }
      const flushes = Array.from({ length: 20 }, () => io.wait((c) => file.flush(c)));
      t.same(new Set(await Promise.all(flushes)), new Set([0]), 'twenty flushes at once');
      file.close();
    });
  });

  t.test('tells by the identity whether two paths lead to one file', async (t) => {
    const name = path(t);
    symlinkSync(name, `${name}-symbolic`);
    linkSync(name, `${name}-hard`);
    writeFileSync(`${name}-other`, '');
    await drive(await makeEngine(), async (io) => {
      const open = (one: string): EngineFile => io.engine.open(one, readOnly);
      const files = ['', '-symbolic', '-hard', '-other'].map((end) => open(name + end));
      const [identity, symbolic, hard, other] = files.map((file) => file.identity);
      t.equal(symbolic, identity, 'a symbolic link');
      t.equal(hard, identity, 'a hard link');
      t.not(other, identity, 'another file');
      for (const file of files) {
        t.type(file.rotational, 'boolean');
        file.close();
      }
    });
  });

  t.test('rejects what cannot be opened, with the errno and the path', async (t) => {
    const name = path(t);
    const directory = join(name, '..');
    execFileSync('mkfifo', [`${name}-fifo`]);
    mkdirSync(`${directory}/closed`);
    writeFileSync(`${directory}/closed/file`, '');
    chmodSync(`${directory}/closed`, 0);
    await drive(await makeEngine(), async (io) => {
      const opening = (one: string, options: typeof buffered): MapperError | null => {
        try {
          io.engine.open(one, options).close();
          return null;
        } catch (error) {
          return error instanceof MapperError ? error : null;
        }
      };
      for (const options of [buffered, readOnly]) {
        const missing = opening(`${name}-missing`, options);
        t.match(missing, { errno: ENOENT, code: 'ENOENT' }, 'a missing file');
        t.match(missing?.message, `${name}-missing`, 'the text names it');
        t.type(opening(directory, options), MapperError, 'a directory');
        t.type(opening(`${name}-fifo`, options), MapperError, 'a FIFO, without waiting for it');
        t.type(opening('/dev/null', options), MapperError, 'a character device');
        t.type(opening(`${name}/below`, options), MapperError, 'a path through a file');
        t.type(opening('', options), MapperError, 'an empty path');
        t.type(opening('a\0b', options), MapperError, 'a path with a NUL');
        const closed = unprivileged(() => opening(`${directory}/closed/file`, options));
        t.match(closed, { errno: EACCES, code: 'EACCES' }, 'a directory without permission');
      }
    });
    chmodSync(`${directory}/closed`, 0o700);
  });

  t.test('refuses to write to a file that was opened for reading', async (t) => {
    const name = path(t, 'content');
    await drive(await makeEngine(), async (io) => {
      const file = io.engine.open(name, readOnly);
      t.equal(file.writable, false);
      t.equal(file.canTrim, false, 'cannot trim');
      t.equal(file.canZero, false, 'cannot zero');
      const memory = io.memory(MiB);
      for (const length of [1, MiB]) {
        for (const flags of [0, FUA]) {
          t.ok((await io.wait((c) => file.write(0, memory, length, flags, c))) < 0);
        }
      }
      t.equal(await io.wait((c) => file.read(0, memory, 7, c)), 7, 'it still reads');
      t.equal(readFileSync(name, 'latin1'), 'content');
      file.close();
    });
  });

  t.test('goes on after chains of completions of any length', async (t) => {
    const name = path(t, Buffer.alloc(32 * KiB));
    await drive(await makeEngine(), async (io) => {
      const file = io.engine.open(name, buffered);
      const memory = io.memory(512);
      const links = 60_000;
      let left = links;
      const result = await io.wait((completion) => {
        const link: Completion = {
          done: (moved) => {
            if (moved !== 512 || --left === 0) completion.done(moved);
            else if (left > links / 2) file.write(512 * (left % 64), memory, 512, 0, link);
            else file.read(512 * (left % 64), memory, 512, link);
          },
        };
        file.write(0, memory, 512, 0, link);
      });
      t.equal(result, 512);
      t.equal(left, 0, `${links} operations, each started by the one before`);
      file.close();
    });
  });

  t.test('carries out 256 random operations at once', async (t) => {
    const name = path(t);
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      const file = engine.open(name, buffered);
      await compareWithOracle(t, io, file, name, 1);
      file.close();
    });
  });

  t.test('moves data past the page cache', async (t) => {
    const name = path(t, Buffer.alloc(64 * KiB));
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      const file = openDirect(t, io, name);
      if (file === null) return;
      const unit = file.alignmentBytes;
      t.equal(file.direct, true);
      t.ok(unit >= 512 && unit <= 4096 && 4096 % unit === 0, `alignment of ${unit}`);
      const memory = io.memory(64 * KiB);
      fillPattern(io.bytes(memory, 64 * KiB), 0, 2);
      for (const [offset, length] of [
        [0, 64 * KiB],
        [unit, unit],
        [3 * unit, 5 * unit],
      ] as const) {
        fillPattern(io.bytes(memory + offset, length), offset, offset + 3);
        const written = await io.wait((c) => file.write(offset, memory + offset, length, 0, c));
        t.equal(written, length, 'wrote');
        t.equal(mismatchInFile(name, offset, length, offset + 3), -1, 'the file has it');
        io.bytes(memory + offset, length).fill(0);
        t.equal(await io.wait((c) => file.read(offset, memory + offset, length, c)), length);
        const bytes = io.bytes(memory + offset, length);
        t.equal(patternMismatch(bytes, offset, offset + 3), -1, 'and memory has it again');
      }
      t.equal(await io.wait((c) => file.write(0, memory, unit, FUA, c)), unit, 'FUA');
      t.equal(await io.wait((c) => file.flush(c)), 0, 'flush');
      truncateSync(name, 2 * unit + 100);
      t.equal(await io.wait((c) => file.read(unit, memory, 4 * unit, c)), unit + 100, 'short');
      file.close();
    });
  });

  t.test('carries out 256 random operations past the page cache at once', async (t) => {
    const name = path(t, Buffer.alloc(8 * KiB));
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      const file = openDirect(t, io, name);
      if (file === null) return;
      await compareWithOracle(t, io, file, name, file.alignmentBytes);
      file.close();
    });
  });

  t.test('trims and zeroes, if it says that it can', async (t) => {
    const name = path(t);
    await drive(await makeEngine(), async (io) => {
      const file = io.engine.open(name, buffered);
      if (!file.canTrim && !file.canZero) t.pass('it says that it cannot');
      if (file.canTrim) {
        const punch = (offset: number, length: number): Promise<number> =>
          io.wait((c) => file.trim(offset, length, c));
        const saved = await checkZeroed(t, name, punch);
        t.ok(saved >= MiB / 2, 'the range gave its space back');
      }
      if (file.canZero) {
        const zero = (offset: number, length: number): Promise<number> =>
          io.wait((c) => file.zero(offset, length, c));
        const saved = await checkZeroed(t, name, zero);
        t.ok(saved <= 0, 'the range kept its space');
      }
      file.close();
    });
  });

  t.test('tells holes from data, if it says that it can', async (t) => {
    const name = path(t);
    // Data, a hole, data, a hole: a MiB each.
    const descriptor = openSync(name, 'r+');
    const data = Buffer.alloc(MiB, 'd');
    writeSync(descriptor, data, 0, MiB, 0);
    writeSync(descriptor, data, 0, MiB, 2 * MiB);
    fsyncSync(descriptor);
    closeSync(descriptor);
    truncateSync(name, 4 * MiB);
    await drive(await makeEngine(), async (io) => {
      const file = io.engine.open(name, readOnly);
      if (!file.canExtents) {
        t.pass('it says that it cannot');
        return;
      }
      const content = readFileSync(name);
      const holes = Buffer.alloc(4 * MiB, 'd');
      for (let at = 0; at < 4 * MiB; ) {
        const result = file.extentEnd(at);
        const end = Math.abs(result);
        t.ok(end > at && end <= 4 * MiB, `an extent from ${at} to ${end}`);
        if (result < 0) holes.fill(0, at, end);
        if (!(end > at)) break;
        at = end;
      }
      const sparse = statSync(name).blocks * 512 < 3 * MiB;
      if (sparse) t.ok(holes.equals(content), 'holes are where nothing was written');
      t.equal(Math.abs(file.extentEnd(MiB + 4096)), sparse ? 2 * MiB : 4 * MiB, 'from the middle');
      file.close();
    });
  });

  copyTests(t, makeEngine, path);
}

/** What a copy by the system may be refused for, and what it then leaves alone. */
const refusals: readonly number[] = [EAGAIN, EINVAL, ENOSYS, EOPNOTSUPP, EXDEV, ENOTTY];

function copyTests(t: Test, makeEngine: MakeEngine, path: MakePath): void {
  t.test('has the system copy a range to another file, if it can', async (t) => {
    const from = path(t);
    const to = `${from}-copy`;
    const content = Buffer.alloc(2 * MiB);
    fillPattern(content, 0, 3);
    writeFileSync(from, content);
    await drive(await makeEngine(), async (io) => {
      const source = io.engine.open(from, readOnly);
      for (const way of [COPY_BY_CLONE, COPY_BY_SYSTEM] as const) {
        writeFileSync(to, Buffer.alloc(2 * MiB, 'z'));
        const destination = io.engine.open(to, buffered);
        if (source.copyTo === undefined) {
          t.pass('it says that it cannot');
          destination.close();
          continue;
        }
        const expected = Buffer.alloc(2 * MiB, 'z');
        for (const [at, length] of [
          [4096, 64 * KiB],
          [MiB, 700 * KiB],
        ] as const) {
          for (let done = 0; done < length; ) {
            const result = await io.wait((c) =>
              source.copyTo?.(destination, at + done, at + done - 4096, length - done, way, c),
            );
            if (result < 0) {
              t.ok(refusals.includes(-result), `refused with ${result}`);
              break;
            }
            t.ok(result > 0 && result <= length - done, `copied ${result}`);
            content.copy(expected, at + done - 4096, at + done, at + done + result);
            done += result;
          }
        }
        t.ok(expected.equals(readFileSync(to)), 'it copied what it says, and nothing else');
        if (way === COPY_BY_SYSTEM) {
          const behind = await io.wait((c) =>
            source.copyTo?.(destination, 3 * MiB, 0, 4096, way, c),
          );
          t.ok(behind <= 0, 'nothing behind the end');
        }
        destination.close();
      }
      source.close();
    });
  });
}

/** Opens past the page cache; null where the file system has no such thing. */
function openDirect(t: Test, io: Harness, name: string): EngineFile | null {
  try {
    return io.engine.open(name, direct);
  } catch (error) {
    t.type(error, MapperError);
    t.pass('the file system refuses O_DIRECT');
    return null;
  }
}

/** Reads the file as others see it. Index of the first byte unlike the pattern, or -1. */
function mismatchInFile(name: string, offset: number, length: number, seed: number): number {
  const descriptor = openSync(name, 'r');
  const bytes = Buffer.alloc(length);
  const read = readSync(descriptor, bytes, 0, length, offset);
  closeSync(descriptor);
  return read === length ? patternMismatch(bytes, offset, seed) : read;
}

/**
 * Random reads and writes in random places, 256 at a time, all aligned to `unit`, against a plain
 * copy of what the file must hold. Ranges of one round do not touch: their order is not promised.
 */
async function compareWithOracle(
  t: Test,
  io: Harness,
  file: EngineFile,
  name: string,
  unit: number,
): Promise<void> {
  const seed = Math.floor(Math.random() * 2 ** 31);
  const next = random(seed);
  const oracle = Buffer.alloc(24 * MiB);
  truncateSync(name, oracle.length);
  const small = Array.from({ length: 240 }, () => io.memory(16 * KiB));
  const large = Array.from({ length: 16 }, () => io.memory(512 * KiB));
  const memories = [...small, ...large];
  const align = (bytes: number): number => bytes - (bytes % unit);

  for (let round = 0; round < 4; round++) {
    let wrong = 0;
    let at = 0;
    const operations = memories.map(async (_, i) => {
      const index = (i * 37) % memories.length;
      const memory = memories[index] as number;
      const room = index < small.length ? 16 * KiB : 512 * KiB;
      const offset = at + align(next(16 * KiB));
      const length = Math.max(unit, align(next(room)));
      at = offset + length;
      const bytes = io.bytes(memory, length);
      const expected = oracle.subarray(offset, offset + length);
      if (round === 0 || next(2) === 0) {
        fillPattern(bytes, next(1000), next(5) + 1);
        expected.set(bytes);
        const flags = next(16) === 0 ? FUA : 0;
        const written = await io.wait((c) => file.write(offset, memory, length, flags, c));
        if (written !== length) wrong++;
      } else {
        bytes.fill(0xee);
        const read = await io.wait((c) => file.read(offset, memory, length, c));
        if (read !== length || !expected.equals(bytes)) wrong++;
      }
    });
    await Promise.all(operations);
    t.ok(at < oracle.length, 'all within the file');
    t.equal(wrong, 0, `round ${round} did and read the right things (seed ${seed})`);
    t.ok(oracle.equals(readFileSync(name)), `the file is as it should be (seed ${seed})`);
  }
}

/**
 * Fills the file with 4 MiB, zeroes a MiB of it with `zero`, and then odd pieces. Returns the bytes
 * of space that the MiB gave back.
 */
async function checkZeroed(
  t: Test,
  name: string,
  zero: (offset: number, length: number) => Promise<number>,
): Promise<number> {
  const content = Buffer.alloc(4 * MiB);
  fillPattern(content, 0, 4);
  writeFileSync(name, content);
  const descriptor = openSync(name, 'r+');
  const space = (): number => {
    fsyncSync(descriptor);
    return statSync(name).blocks * 512;
  };
  const before = space();
  t.equal(await zero(MiB, MiB), 0);
  content.fill(0, MiB, 2 * MiB);
  t.ok(content.equals(readFileSync(name)), 'the range reads as zeroes, the rest is as it was');
  const saved = before - space();
  t.equal(await zero(5000, 10_000), 0, 'not on the boundaries of blocks');
  t.equal(await zero(3 * MiB + 1, 1), 0, 'a single byte');
  t.equal(await zero(4 * MiB - 1, 1), 0, 'the last byte');
  content.fill(0, 5000, 15_000);
  content[3 * MiB + 1] = 0;
  content[4 * MiB - 1] = 0;
  t.ok(content.equals(readFileSync(name)), 'exactly the bytes asked for');
  closeSync(descriptor);
  return saved;
}

/** Runs something synchronous without root's rights, if they are there to be given up. */
export function unprivileged<T>(action: () => T): T {
  const { geteuid, seteuid } = process;
  if (geteuid?.() !== 0 || seteuid === undefined) return action();
  seteuid(65_534);
  try {
    return action();
  } finally {
    seteuid(0);
  }
}
