/** When the uring engine looks for work before it sleeps. */

import t from 'tap';
import { BusyPoll } from '../../src/engine/uring/busy-poll.js';

const limit = 0.05;
const short = 0.02;
const long = 1;

function after(...sleeps: readonly number[]): number {
  const poll = new BusyPoll(limit);
  for (const sleep of sleeps) poll.slept(sleep);
  return poll.window;
}

t.test('looks after a few short sleeps on end, and not before', async (t) => {
  t.equal(after(), 0);
  t.equal(after(short, short, short), 0);
  const waking = 2 * limit;
  t.equal(after(short, short, short, waking), limit, 'half of which was perhaps waking');
  t.equal(after(short, short, short, long, short), 0, 'on end');
  t.equal(after(long, long, long, long), 0);
});

t.test('looks half as long each time it was in vain, and gives up', async (t) => {
  const poll = new BusyPoll(limit);
  for (let i = 0; i < 4; i++) poll.slept(short);
  const windows: number[] = [];
  for (let i = 0; i < 5; i++) {
    poll.slept(long);
    windows.push(poll.window);
  }
  t.same(windows, [0.025, 0.0125, 0.00625, 0, 0]);
});

t.test('is as patient again when it pays again', async (t) => {
  const onAndOff = [short, short, short, short, long];
  t.equal(after(...onAndOff), limit / 2);
  t.equal(after(...onAndOff, short, short, short, short), limit);
});

t.test('never looks where it is not to', async (t) => {
  const poll = new BusyPoll(0);
  for (let i = 0; i < 10; i++) poll.slept(short);
  t.equal(poll.window, 0);
});
