/** What both engines are made of: timers, stall guard, send vector, addresses. */

import fc from 'fast-check';
import t from 'tap';
import { AssertionError } from '../../src/base/assert.js';
import { ENOMEM } from '../../src/base/errno.js';
import {
  stallMilliseconds,
  stallPenaltyMilliseconds,
  stallPenaltyMillisecondsMin,
} from '../../src/base/limits.js';
import { addressText, hostAndPort, plainHost } from '../../src/engine/address.js';
import { Arena } from '../../src/engine/arena.js';
import type { Timer } from '../../src/engine/engine.js';
import { ArenaSendVector } from '../../src/engine/send-vector.js';
import { StallGuard } from '../../src/engine/stall-guard.js';
import { Timers } from '../../src/engine/timers.js';

const MiB = 1024 * 1024;

t.test('timers', async (t) => {
  t.test('run as a sorted list would', async (t) => {
    const command = fc.oneof(
      fc.record({ what: fc.constant('add' as const), value: fc.nat(50) }),
      fc.record({ what: fc.constant('cancel' as const), value: fc.nat(200) }),
      fc.record({ what: fc.constant('expire' as const), value: fc.nat(10) }),
    );
    fc.assert(
      fc.property(fc.array(command, { maxLength: 200 }), (commands) => {
        const timers = new Timers();
        const ran: number[] = [];
        const handles: Timer[] = [];
        /** Those that wait, in the order of adding: sorting is stable. */
        let waiting: { due: number; id: number }[] = [];
        const expected: number[] = [];
        let now = 0;
        for (const { what, value } of commands) {
          if (what === 'add') {
            const id = handles.length;
            handles.push(timers.add(now + value, { done: () => ran.push(id) }));
            waiting.push({ due: now + value, id });
          } else if (what === 'cancel') {
            const handle = handles[value];
            if (handle !== undefined) timers.cancel(handle);
            waiting = waiting.filter(({ id }) => id !== value);
          } else {
            now += value;
            timers.expire(now);
            const due = waiting.filter((one) => one.due <= now);
            expected.push(...due.toSorted((a, b) => a.due - b.due).map(({ id }) => id));
            waiting = waiting.filter((one) => one.due > now);
          }
          const next = waiting.length === 0 ? null : Math.min(...waiting.map(({ due }) => due));
          if (timers.nextDue() !== next || timers.count !== waiting.length) return false;
        }
        return ran.join() === expected.join();
      }),
    );
    t.pass();
  });

  t.test('keep nothing of those that were cancelled', async (t) => {
    const timers = new Timers();
    const far = timers.add(1e9, { done: () => {} });
    for (let i = 0; i < 10_000; i++) timers.cancel(timers.add(1e6 + i, { done: () => {} }));
    t.equal(timers.count, 1);
    timers.cancel(far);
    timers.cancel(far);
    t.equal(timers.count, 0);
    t.equal(timers.nextDue(), null);
  });

  t.test('let those that run cancel and add others', async (t) => {
    const timers = new Timers();
    const ran: string[] = [];
    const second = timers.add(2, { done: () => ran.push('second') });
    timers.add(1, {
      done: () => {
        ran.push('first');
        timers.cancel(second);
        timers.add(1, { done: () => ran.push('added') });
      },
    });
    timers.add(3, { done: (result) => ran.push(`third ${result}`) });
    timers.expire(10);
    t.same(ran, ['first'], 'what is added waits, and those behind it with it');
    timers.expire(10);
    t.same(ran, ['first', 'added', 'third 0']);
  });

  t.test('reject a due time that is none, and timers of others', async (t) => {
    const timers = new Timers();
    t.throws(() => timers.add(Number.NaN, { done: () => {} }), AssertionError);
    t.throws(() => timers.cancel({ due: 1 }), AssertionError);
    timers.add(1, { done: () => {} });
    const foreign = new Timers().add(1, { done: () => {} });
    t.throws(() => timers.cancel(foreign), AssertionError);
  });
});

t.test('stall guard', async (t) => {
  const slow = stallMilliseconds + 0.1;

  t.test('lets calls block until one took long, and again after a while', async (t) => {
    const guard = new StallGuard();
    t.equal(guard.mayBlock(0), true);
    guard.took(stallMilliseconds, 100);
    t.equal(guard.mayBlock(100), true, 'as long as is allowed');
    guard.took(slow, 200);
    t.equal(guard.mayBlock(200), false);
    t.equal(guard.mayBlock(200 + stallPenaltyMillisecondsMin - 1), false);
    t.equal(guard.mayBlock(200 + stallPenaltyMillisecondsMin), true);
    guard.took(slow, 5000);
    guard.took(0, 5001);
    t.equal(guard.mayBlock(5001), false, 'a fast one does not take the penalty back');
  });

  t.test('is the more careful the more stalls there are', async (t) => {
    const guard = new StallGuard();
    const penalties: number[] = [];
    let now = 0;
    const stall = (): void => {
      const start = now;
      guard.took(slow, now);
      while (!guard.mayBlock(now)) now++;
      penalties.push(now - start);
    };
    for (let i = 0; i < 5; i++) stall();
    t.same(penalties, [20, 80, 320, 1000, 1000]);
    now += stallPenaltyMilliseconds - 1;
    stall();
    t.equal(penalties.at(-1), 1000, 'soon again');
    now += stallPenaltyMilliseconds;
    stall();
    t.equal(penalties.at(-1), 20, 'forgiven');
  });

  /** A thread: `work` passes between the calls, and each call takes its time. */
  const thread = (): { call(milliseconds: number): boolean; work(milliseconds: number): void } => {
    let now = 1000;
    const guard = new StallGuard(() => now);
    let last = now;
    return {
      work(milliseconds) {
        now += milliseconds;
      },
      call(milliseconds) {
        const start = guard.startOf(last);
        now += milliseconds;
        last = guard.endOf(start);
        return guard.mayBlock(now);
      },
    };
  };

  t.test('measures with one reading a call', async (t) => {
    const { call } = thread();
    t.equal(call(0.001), true);
    t.equal(call(slow), true, 'the first slow one only raises a suspicion');
    t.equal(call(0.001), true);
    t.equal(call(slow), false, 'the second convicts, though there was a fast one between');
  });

  t.test('does not charge a call with what came before it', async (t) => {
    const { call, work } = thread();
    let accused = 0;
    for (let i = 0; i < 1000; i++) {
      work(slow);
      if (!call(0.001)) accused++;
    }
    t.equal(accused, 0);
  });

  t.test('forgets a suspicion', async (t) => {
    const { call } = thread();
    call(slow);
    for (let i = 0; i < 1000; i++) call(0.001);
    t.equal(call(slow), true);
    t.equal(call(slow), false);
  });
});

t.test('send vector', async (t) => {
  t.test('keeps what the kernel takes, and gives it back', async (t) => {
    const pieces = fc.array(fc.record({ at: fc.nat(4 * MiB), bytes: fc.nat(MiB) }), {
      maxLength: 40,
    });
    const bases = fc.constantFrom(0, 4096, 0x7fff_f000, 0xffff_f000, 0x7f12_3456_7000);
    const arena = new Arena(4 * MiB);
    fc.assert(
      fc.property(bases, pieces, (base, pieces) => {
        const vector = new ArenaSendVector(arena, base, 40);
        for (const { at, bytes } of pieces) vector.push(at, bytes);
        const good = pieces.every(({ at, bytes }, i) => {
          const entry = vector.memory + i * 16;
          return (
            arena.view.getBigUint64(entry, true) === BigInt(base + at) &&
            arena.view.getBigUint64(entry + 8, true) === BigInt(bytes) &&
            vector.offsetOf(i) === at &&
            vector.lengthOf(i) === bytes
          );
        });
        const sum = pieces.reduce((total, { bytes }) => total + bytes, 0);
        arena.free(vector.memory, 40 * 16);
        return good && vector.count === pieces.length && vector.bytes === sum;
      }),
    );
    t.pass();
  });

  t.test('begins anew when it is cleared', async (t) => {
    const vector = new ArenaSendVector(new Arena(2 * MiB), 0, 2);
    vector.push(1, 2);
    vector.push(3, 4);
    vector.clear();
    t.match(vector, { count: 0, bytes: 0, capacity: 2 });
    vector.push(5, 6);
    t.equal(vector.offsetOf(0), 5);
    t.equal(vector.bytes, 6);
  });

  t.test('rejects what the arena has no room for', async (t) => {
    const arena = new Arena(2 * MiB);
    t.throws(() => new ArenaSendVector(arena, 0, 0), AssertionError);
    t.throws(() => new ArenaSendVector(arena, 0, 65_537), AssertionError);
    new ArenaSendVector(arena, 0, 65_536);
    t.throws(() => new ArenaSendVector(arena, 0, 1), { name: 'MapperError', errno: ENOMEM });
  });
});

t.test('addresses as texts', async (t) => {
  t.equal(addressText({ kind: 'tcp', host: '127.0.0.1', port: 10_809 }), '127.0.0.1:10809');
  t.equal(addressText({ kind: 'tcp', host: '::1', port: 1 }), '[::1]:1');
  t.equal(addressText({ kind: 'unix', path: '/run/s' }), 'unix:/run/s');
  t.equal(addressText({ kind: 'unix', path: '\0nbd' }), 'unix:@nbd', 'an abstract name');
  t.equal(hostAndPort('::ffff:1.2.3.4', 5), '[::ffff:1.2.3.4]:5');
  t.equal(plainHost('::ffff:1.2.3.4'), '1.2.3.4');
  t.equal(plainHost('::FFFF:7f00:1'), '127.0.0.1');
  for (const host of ['::1', '1.2.3.4', '::ffff:0:7f00:1', 'fe80::ffff:7f00:1', 'unknown']) {
    t.equal(plainHost(host), host);
  }
});
