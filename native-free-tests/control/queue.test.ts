import t from 'tap';
import type { QueueEvent } from '../../src/queue/commands.js';
import { Queue } from '../../src/queue/queue.js';

const thread = new URL('./scripted-thread.js', import.meta.url);

async function setUp(script = thread) {
  const events: QueueEvent[] = [];
  let fail = (_error: Error): void => {};
  const failed = new Promise<Error>((resolve) => {
    fail = resolve;
  });
  let failures = 0;
  const queue = await Queue.start(
    'node',
    {
      event: (event) => events.push(event),
      failed: (error) => {
        failures++;
        fail(error);
      },
    },
    { thread: script },
  );
  return { queue, events, failed, failures: () => failures };
}

t.test('calls are answered, refused, and events passed on', async (t) => {
  const { queue, events } = await setUp();
  t.match(queue, { engine: 'node', engineReason: 'told so' });
  const names = ['a', 'b', 'c'];
  const answers = await Promise.all(names.map((name) => queue.call('info', { name })));
  t.same(answers, [{ name: 'a' }, { name: 'b' }, { name: 'c' }]);
  await t.rejects(queue.call('remove', { name: 'a' }), {
    name: 'MapperError',
    code: 'EBUSY',
    errno: 16,
    message: 'in use',
  });
  await queue.call('clear', { name: 'a' });
  t.match(events, [
    { event: 'log', text: 'early' },
    { event: 'device', name: 'a' },
  ]);
  await queue.kill();
});

t.test('a fault in the thread fails what is asked, and is told once', async (t) => {
  const { queue, failed, failures } = await setUp();
  const waiting = queue.call('suspend', { name: 'a' });
  const faulty = queue.call('resume', { name: 'a' });
  await t.rejects(waiting, { code: 'EIO', message: 'queue thread has ended: fault in the thread' });
  await t.rejects(faulty, { code: 'EIO' });
  t.match(await failed, { message: 'fault in the thread' });
  await t.rejects(queue.call('info', { name: 'a' }), { code: 'ESHUTDOWN' });
  await queue.kill();
  t.equal(failures(), 1);
});

t.test('an end that nobody asked for is a failure, one after shutdown is none', async (t) => {
  const sudden = await setUp();
  await t.rejects(sudden.queue.call('ls', {}), { message: /queue thread ended with code 3$/ });
  await sudden.failed;
  const { queue, failures } = await setUp();
  t.equal(await queue.call('shutdown', {}), null);
  await queue.kill();
  t.equal(failures(), 0);
});

t.test('kill ends a thread that has calls unanswered, and that is no failure', async (t) => {
  const { queue, failures } = await setUp();
  const waiting = queue.call('suspend', { name: 'a' });
  const refused = t.rejects(waiting, { code: 'EIO' });
  await queue.kill();
  await refused;
  t.equal(failures(), 0);
});

t.test('a thread that cannot start rejects with its reason', async (t) => {
  const listener = { event: () => {}, failed: () => t.fail('not yet a queue') };
  await t.rejects(Queue.start('uring', listener, { thread }), {
    message: 'engine uring: not here',
  });
  const none = new URL('./no-such-thread.js', import.meta.url);
  await t.rejects(Queue.start('node', listener, { thread: none }), {
    code: 'ERR_MODULE_NOT_FOUND',
  });
});
