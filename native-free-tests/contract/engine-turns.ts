/** The engine contract: turns, their ends, timers, promises, start and stop. */

import { writeSync } from 'node:fs';
import type { Test } from 'tap';
import { Deferred } from '../../src/base/deferred.js';
import type { Completion, Timer, TurnEnd } from '../../src/engine/engine.js';
import { drive } from './drive.js';
import type { MakeEngine } from './engine-suite.js';
import { random } from './pattern.js';

/** Holds the thread, so that several timers become due together. */
function spin(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

export function turnTests(t: Test, makeEngine: MakeEngine): void {
  t.test('runs until it is stopped by a completion', async (t) => {
    const engine = await makeEngine();
    let after = false;
    engine.timer(1, { done: () => engine.stop() });
    engine.timer(200_000, {
      done: () => {
        after = true;
      },
    });
    await engine.run();
    t.equal(after, false, 'a timer that was not due did not run');
  });

  t.test('runs timers in the order in which they are due, and none early', async (t) => {
    const engine = await makeEngine();
    const seed = Math.floor(Math.random() * 2 ** 31);
    const next = random(seed);
    await drive(engine, async (io) => {
      const ran: Timer[] = [];
      let early = 0;
      const one = (): Promise<number> =>
        io.wait((completion) => {
          const timer: Timer = engine.timer(next(40) / 2, {
            done: (result) => {
              if (engine.clock() < timer.due) early++;
              ran.push(timer);
              completion.done(result);
            },
          });
        });
      const results = await Promise.all(Array.from({ length: 300 }, one));
      t.ok(
        results.every((result) => result === 0),
        'each gets 0',
      );
      t.equal(early, 0, `none ran before it was due (seed ${seed})`);
      t.equal(ran.length, 300, 'all ran');
      const due = ran.map((timer) => timer.due);
      t.same(
        due,
        due.toSorted((a, b) => a - b),
        `in order (seed ${seed})`,
      );
    });
  });

  t.test('does not run a timer of 0 before the call that starts it returns', async (t) => {
    await drive(await makeEngine(), async (io) => {
      let returned = false;
      const result = await io.wait((completion) => {
        io.engine.timer(0, {
          done: () => completion.done(returned ? 1 : 2),
        });
        returned = true;
      });
      t.equal(result, 1);
    });
  });

  t.test('does not run cancelled timers, and lets one that has run be cancelled', async (t) => {
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      const ran: number[] = [];
      const timers: Timer[] = [];
      for (let i = 0; i < 100; i++) {
        timers.push(engine.timer(i % 10, { done: () => ran.push(i) }));
      }
      for (let i = 0; i < 100; i += 2) engine.cancelTimer(timers[i] as Timer);
      for (let i = 0; i < 100; i += 4) engine.cancelTimer(timers[i] as Timer);
      await io.sleep(15);
      t.same(
        ran.toSorted((a, b) => a - b),
        Array.from({ length: 50 }, (_, i) => 2 * i + 1),
        'those that were not cancelled ran once',
      );
      for (const timer of timers) engine.cancelTimer(timer);
      await io.sleep(0);
    });
  });

  t.test('does not run a timer that another one cancels in the same turn', async (t) => {
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      let ran = false;
      engine.timer(1, { done: () => engine.cancelTimer(second) });
      const second = engine.timer(2, {
        done: () => {
          ran = true;
        },
      });
      spin(10);
      await io.sleep(5);
      t.equal(ran, false);
    });
  });

  t.test('keeps a timer of 0 that starts itself anew from holding up others', async (t) => {
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      let rounds = 0;
      let over = false;
      const again: Completion = {
        done: () => {
          rounds++;
          if (!over) engine.timer(0, again);
        },
      };
      engine.timer(0, again);
      await io.sleep(20);
      over = true;
      await io.sleep(5);
      t.ok(rounds > 0, 'it ran too');
    });
  });

  t.test('takes its time from a monotonic clock', async (t) => {
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      let last = engine.now;
      for (let i = 0; i < 20; i++) {
        await io.sleep(i % 3);
        t.ok(engine.now >= last, 'time does not go back');
        t.ok(engine.clock() >= engine.now, 'now was not read in the future');
        last = engine.now;
      }
    });
  });

  t.test('runs turn-end hooks once, after everything of the turn', async (t) => {
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      const events: string[] = [];
      const ended = new Deferred<void>(engine);
      const hook: TurnEnd = {
        turnEnd: () => {
          events.push('hook');
          ended.resolve();
        },
      };
      const first: Completion = {
        done: () => {
          engine.atTurnEnd(hook);
          events.push('first');
        },
      };
      engine.timer(1, first);
      engine.timer(1, { done: () => events.push('second') });
      engine.timer(1, { done: () => events.push('third') });
      spin(5);
      await ended.promise;
      await io.sleep(2);
      t.same(events, ['first', 'second', 'third', 'hook']);
    });
  });

  t.test('runs hooks in the order asked for, and those that hooks ask for', async (t) => {
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      const events: number[] = [];
      const ended = new Deferred<void>(engine);
      const hook = (number: number): TurnEnd => ({
        turnEnd: () => {
          events.push(number);
          if (number < 8) engine.atTurnEnd(hook(number + 2));
          if (number === 8) ended.resolve();
        },
      });
      engine.atTurnEnd(hook(1));
      engine.atTurnEnd(hook(2));
      await ended.promise;
      await io.sleep(2);
      t.same(events, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    });
  });

  t.test('runs a hook that a continuation asked for while nothing else happens', async (t) => {
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      for (let i = 0; i < 10; i++) {
        await io.wait((completion) => engine.atTurnEnd({ turnEnd: () => completion.done(i) }));
      }
      t.pass('each ran');
    });
  });

  t.test('lets chains of continuations run to their end', async (t) => {
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      const deep = async (level: number): Promise<number> =>
        level === 0 ? io.wait((completion) => engine.timer(0, completion)) : deep(level - 1);
      t.equal(await deep(100), 0, 'a hundred async functions, one inside the other');
      let value = Promise.resolve(0);
      for (let i = 0; i < 100; i++) value = value.then((sum) => sum + 1);
      t.equal(await value, 100, 'a hundred continuations, one after the other');
      const all = await Promise.all(Array.from({ length: 50 }, () => deep(5)));
      t.equal(all.length, 50, 'fifty at the same time');
    });
  });

  t.test('wakes for another thread, if it has to be woken', async (t) => {
    const engine = await makeEngine();
    await drive(engine, async (io) => {
      let wakened: Completion | null = null;
      const descriptor = engine.onWake(() => wakened?.done(0));
      if (descriptor === null) {
        t.pass('it has an event loop');
        return;
      }
      for (let i = 0; i < 3; i++) {
        const woken = io.wait((completion) => {
          wakened = completion;
        });
        writeSync(descriptor, 'x');
        t.equal(await woken, 0, 'woken');
      }
    });
  });
}
