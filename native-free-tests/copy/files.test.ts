/** The copy engine on the engines that are used, between real files. */

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import type { BackingUser } from '../../src/backing/device.js';
import { Backings } from '../../src/backing/open.js';
import { MapperError, messageOf } from '../../src/base/errors.js';
import { CopyEngine } from '../../src/copy/engine.js';
import {
  COPY_HOLES,
  COPY_OFFLOAD,
  COPY_WRITE_SEQ,
  COPY_ZEROES,
  type CopyJob,
} from '../../src/copy/job.js';
import { FLAG_HOLES_OK, IoPool, READ, ZERO } from '../../src/device/io.js';
import type { OpenBacking } from '../../src/device/table.js';
import { Arena } from '../../src/engine/arena.js';
import { chooseEngine } from '../../src/engine/choose.js';
import type { Engine } from '../../src/engine/engine.js';
import { running } from '../contract/engine-harness.js';
import { silent } from '../contract/harness.js';
import { fillPattern, random } from '../contract/pattern.js';
import { unavailable } from '../interop/programs.js';

const KiB = 1024;
const MiB = 1024 * KiB;
const bytes = 6 * MiB + 512;
const user: BackingUser = { title: 'a test', deviceRemoved() {} };

const folder = mkdtempSync(join(tmpdir(), 'mapperd-copy-'));
t.teardown(() => rmSync(folder, { recursive: true }));

/** Data with zeroes and (where the file system has them) holes in it. */
function content(seed: number): Buffer {
  const data = Buffer.alloc(bytes);
  fillPattern(data, 0, seed);
  const next = random(seed);
  for (let i = 0; i < 8; i++) {
    const at = next(bytes);
    data.fill(0, at, at + next(MiB));
  }
  return data;
}

class Rig {
  readonly engine: Engine;
  readonly ios = new IoPool();
  readonly copies: CopyEngine;
  readonly #backings: Backings;

  constructor(engine: Engine) {
    this.engine = engine;
    this.copies = new CopyEngine(engine, this.ios);
    this.#backings = new Backings(engine, this.ios, silent, () => undefined);
  }

  /** Null where the file system has no O_DIRECT. */
  open(path: string, direct: boolean): OpenBacking | null {
    try {
      return this.#backings.open(`file://${path}?direct=${direct ? 1 : 0}`, user, false);
    } catch (error) {
      if (!(error instanceof MapperError)) throw error;
      return null;
    }
  }

  copy(fill: (job: CopyJob) => void): Promise<Pick<CopyJob, 'ok' | 'doneBytes' | 'ways'>> {
    return new Promise((resolve) => {
      const job = this.copies.take();
      fill(job);
      job.owner = {
        copied: ({ ok, doneBytes, ways }) => {
          this.engine.promiseResolved();
          resolve({ ok, doneBytes, ways });
        },
      };
      this.copies.start(job);
    });
  }

  /** An operation on the range; whether all was known to be zeroes. */
  operation(kind: typeof READ | typeof ZERO, backing: OpenBacking, length: number) {
    return new Promise<boolean>((resolve) => {
      const memory = this.engine.arena.allocate(length);
      const io = this.ios.take(kind, 0, length, {
        finished: (ended) => {
          const { allZero } = ended;
          this.ios.give(ended);
          this.engine.arena.free(memory, length);
          this.engine.promiseResolved();
          resolve(allZero);
        },
      });
      io.memory = memory;
      if (kind === READ) io.flags = FLAG_HOLES_OK;
      backing.submit(io);
    });
  }
}

/** Random ranges between two files, in every way of opening them. */
async function ranges(t: Test, rig: Rig): Promise<void> {
  const path = (name: string): string => join(folder, `${rig.engine.name}-${name}`);
  const next = random(20_261_121);
  const source = content(1);
  const flags = [0, COPY_HOLES, COPY_ZEROES, COPY_WRITE_SEQ, COPY_OFFLOAD];
  flags.push(COPY_OFFLOAD | COPY_HOLES);
  for (const direct of [false, true]) {
    const expected = [content(2), content(3)];
    writeFileSync(path('source'), source);
    expected.forEach((data, i) => {
      writeFileSync(path(`${i}`), data);
    });
    const from = rig.open(path('source'), direct);
    const to = [rig.open(path('0'), direct), rig.open(path('1'), false)];
    const unit = direct ? 512 : 1;
    for (let i = 0; i < 30 && from !== null; i++) {
      const whole = i % 3 === 0 ? 4096 : unit;
      const sourceOffset = Math.floor(next(bytes) / whole) * whole;
      const offset = Math.floor(next(bytes) / whole) * whole;
      const most = bytes - Math.max(sourceOffset, offset);
      const length = Math.floor(next(most + 1) / whole) * whole;
      const ended = await rig.copy((job) => {
        job.source = from;
        job.sourceOffset = sourceOffset;
        job.length = length;
        job.flags = flags[i % flags.length] as number;
        for (const one of to) if (one !== null) job.addDestination(one, offset);
      });
      t.match(ended, { ok: true, doneBytes: length });
      for (const data of expected) source.copy(data, offset, sourceOffset, sourceOffset + length);
    }
    from?.close();
    to.forEach((one, i) => {
      one?.close();
      if (one === null || from === null) return;
      t.ok((expected[i] as Buffer).equals(readFileSync(path(`${i}`))), `${i}, direct: ${direct}`);
    });
  }
}

/** A hole that is known must not stay known when the system has copied something there. */
async function holes(t: Test, rig: Rig): Promise<void> {
  const path = (name: string): string => join(folder, `${rig.engine.name}-hole-${name}`);
  writeFileSync(path('source'), content(1));
  writeFileSync(path('destination'), Buffer.alloc(bytes, 'd'));
  const source = rig.open(path('source'), false) as OpenBacking;
  const destination = rig.open(path('destination'), false) as OpenBacking;
  await rig.operation(ZERO, destination, 64 * KiB);
  const known = await rig.operation(READ, destination, 64 * KiB);
  t.equal(known, destination.features.trim, 'the hole is known, where there are holes');
  const ended = await rig.copy((job) => {
    job.source = source;
    job.length = 4096;
    job.flags = COPY_OFFLOAD;
    job.addDestination(destination, 8192);
  });
  t.equal(ended.ok, true);
  t.notOk(await rig.operation(READ, destination, 64 * KiB));
  source.close();
  destination.close();
}

for (const name of ['uring', 'node'] as const) {
  t.test(`between files (${name})`, async (t) => {
    let engine: Engine;
    try {
      engine = (await chooseEngine(name, new Arena(96 * MiB))).engine;
    } catch (error) {
      t.pass('this machine has no such engine', { skip: unavailable(messageOf(error)) });
      return;
    }
    const rig = new Rig(engine);
    const before = engine.arena.inUse;
    await running(engine, async () => {
      await t.test('copies ranges', async (t) => ranges(t, rig));
      await t.test('forgets a hole that is filled', async (t) => holes(t, rig));
    });
    t.equal(engine.arena.inUse, before);
    t.equal(rig.ios.inUse, 0);
  });
}
