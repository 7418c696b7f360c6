import { openSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { getSystemErrorMap } from 'node:util';
import t from 'tap';
import { AssertionError } from '../../src/base/assert.js';
import { EACCES, EINVAL, EOPNOTSUPP } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { blockingBytesMax, blockingDepthMax } from '../../src/base/limits.js';
import { Arena } from '../../src/engine/arena.js';
import type { Completion, TurnEnd } from '../../src/engine/engine.js';
import { blockDeviceBytes, majorMinor } from '../../src/engine/node/block-device.js';
import { NodeEngine } from '../../src/engine/node/engine.js';
import { mapperErrorOf, resultOf } from '../../src/engine/node/system-error.js';
import { Connections, drive } from '../contract/drive.js';
import { engineSuite } from '../contract/engine-suite.js';

const makeEngine = (): NodeEngine => new NodeEngine(new Arena(64 * 1024 * 1024));

engineSuite(t, 'node', makeEngine);

t.test('node: what is done at once, and what on the pool', async (t) => {
  const name = join(t.testdir({ file: 'x'.repeat(4096) }), 'file');
  const engine = makeEngine();
  await drive(engine, async (io) => {
    const file = engine.open(name, { writable: true, direct: false });
    const memory = io.memory(2 * blockingBytesMax);
    /** Whether it had ended before the call returned. */
    const atOnce = async (start: (completion: Completion) => void): Promise<boolean> => {
      let ended = false;
      await io.wait((completion) => {
        let returned = false;
        start({
          done: (result) => {
            ended = !returned;
            completion.done(result);
          },
        });
        returned = true;
      });
      return ended;
    };
    const long = blockingBytesMax + 1;
    t.equal(await atOnce((c) => file.read(0, memory, 4096, c)), true, 'a small read');
    t.equal(await atOnce((c) => file.write(0, memory, 4096, 0, c)), true, 'a small write');
    t.equal(await atOnce((c) => file.read(0, memory, long, c)), false, 'a large read');
    t.equal(await atOnce((c) => file.write(0, memory, long, 0, c)), false, 'a large write');
    t.equal(await atOnce((c) => file.write(0, memory, 512, 1, c)), false, 'FUA');
    t.equal(await atOnce((c) => file.flush(c)), false, 'flush');

    let depth = 0;
    let deepest = 0;
    let left = 100;
    await io.wait((completion) => {
      const link: Completion = {
        done: (result) => {
          depth++;
          deepest = Math.max(deepest, depth);
          if (--left === 0) completion.done(result);
          else file.read(0, memory, 16, link);
          depth--;
        },
      };
      file.read(0, memory, 16, link);
    });
    t.equal(deepest, blockingDepthMax + 1, 'a chain does not fill the stack');
    t.equal(await atOnce((c) => file.read(0, memory, 16, c)), true, 'and leaves nothing behind');

    t.equal(file.canTrim || file.canZero || file.canExtents, false);
    t.equal(await io.wait((c) => file.trim(0, 512, c)), -EOPNOTSUPP);
    t.equal(await io.wait((c) => file.zero(0, 512, c)), -EOPNOTSUPP);
    t.throws(() => file.extentEnd(0), AssertionError);
    file.close();
  });
});

t.test('node: runs hooks behind everything that the pool has done', async (t) => {
  const length = blockingBytesMax + 1;
  const name = join(t.testdir({ file: 'x'.repeat(length) }), 'file');
  const engine = makeEngine();
  await drive(engine, async (io) => {
    const file = engine.open(name, { writable: false, direct: false });
    const memories = Array.from({ length: 3 }, () => io.memory(length));
    const events: string[] = [];
    const hooked = io.wait((completion) => {
      const hook: TurnEnd = {
        turnEnd: () => {
          events.push('hook');
          completion.done(0);
        },
      };
      for (const memory of memories) {
        const done = (): void => {
          if (events.push('read') === 1) engine.atTurnEnd(hook);
        };
        file.read(0, memory, length, { done });
      }
    });
    const last = (memory: number): number => engine.arena.bytes[memory + length - 1] as number;
    const doze = (milliseconds: number): unknown =>
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
    // The thread comes back to the event loop when all of them wait there.
    while (memories.some((memory) => last(memory) === 0)) doze(1);
    doze(20);
    await hooked;
    t.same(events, ['read', 'read', 'read', 'hook']);
    file.close();
  });
});

t.test('node: refuses ports that are none', async (t) => {
  const engine = makeEngine();
  await drive(engine, async (io) => {
    for (const port of [-1, 65_536, 1.5, Number.NaN]) {
      const address = { kind: 'tcp', host: '127.0.0.1', port } as const;
      await t.rejects(engine.listen(address, new Connections(io)), {
        name: 'MapperError',
        errno: EINVAL,
      });
    }
  });
});

t.test('node: a stopped engine runs no timers, and does not run again', async (t) => {
  const engine = makeEngine();
  let ran = false;
  engine.timer(1, {
    done: () => {
      ran = true;
    },
  });
  engine.stop();
  await engine.run();
  await new Promise((resolve) => setTimeout(resolve, 10));
  t.equal(ran, false);
});

t.test('node: tells the size of a block device from sysfs', async (t) => {
  const sysfs = t.testdir({ dev: { block: { '8:17': { size: '2097152\n' }, '8:18': {} } } });
  t.equal(blockDeviceBytes(0x811n, sysfs), 2 ** 30);
  t.throws(() => blockDeviceBytes(0x812n, sysfs), { name: 'MapperError', errno: EOPNOTSUPP });
  t.equal(majorMinor(0x811n), '8:17');
  t.equal(majorMinor(0xfe00n), '254:0');
  t.equal(majorMinor(0x0123_4000_5678_9abcn), `${0x123_489a}:${0x5_67bc}`);
  const null_ = statSync('/dev/null', { bigint: true });
  t.equal(majorMinor(null_.rdev), '1:3', 'as the system numbers it');
});

t.test('node: tells system errors from faults of the program', async (t) => {
  const name = join(t.testdir(), 'missing');
  const thrown = (action: () => unknown): unknown => {
    try {
      return action();
    } catch (error) {
      return error;
    }
  };
  const missing = thrown(() => openSync(name, 'r'));
  t.equal(resultOf(missing), -2);
  const denied = Object.assign(new Error(), { errno: -EACCES, code: 'EACCES' });
  const error = mapperErrorOf(denied, 'open "x"');
  t.type(error, MapperError);
  t.match(error, { errno: EACCES, message: 'open "x": permission denied' });
  t.ok(getSystemErrorMap().has(-EACCES));
  const fault = thrown(() => writeFileSync(name, 5 as unknown as string));
  t.throws(() => resultOf(fault), { code: 'ERR_INVALID_ARG_TYPE' }, 'is thrown on');
});
