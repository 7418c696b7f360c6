import { existsSync } from 'node:fs';
import t from 'tap';
import { endWithin } from '../../src/daemon/shutdown.js';
import { Counters } from '../../src/device/counters.js';
import { wholeProtocol } from '../../src/nbd/protocol-options.js';
import type { Hanging } from '../../src/queue/commands.js';
import type { QueueCalls } from '../../src/queue/queue.js';
import { Queue } from '../../src/queue/thread.js';
import { Daemon, eachEngine } from '../interop/harness.js';
import { CMD, RawClient } from '../interop/raw-client.js';
import { hello, simple } from '../nbd/client.js';
import { FakeSocket } from '../nbd/fake-socket.js';
import { Rig } from '../nbd/rig.js';

const never = new Promise<never>(() => {});

/** What is logged and thrown when the end does not come, with a queue that answers so. */
async function waitInVain(answer: () => Promise<Hanging>) {
  const logged: string[] = [];
  const log = (_fields: object, text: string): void => void logged.push(text);
  const counters = new Counters();
  counters.setInFlight(3);
  const catalogue = {
    names: () => ['a', 'b'],
    counters: (name: string) => (name === 'a' ? counters.buffer : new Counters().buffer),
    known: () => null,
  };
  const queue = { call: answer } as unknown as QueueCalls;
  const all = { debug: log, info: log, warn: log, error: log };
  const wait = endWithin(5, never, queue, catalogue, all);
  const thrown = await wait.then(
    () => null,
    (error: Error) => error,
  );
  return { logged, thrown };
}

t.test('tells what an end waits for', async (t) => {
  const devices = [
    { name: 'b', inFlight: 1, flushing: false },
    { name: 'c', inFlight: 0, flushing: true },
  ];
  const { logged, thrown } = await waitInVain(async () => ({ stage: 'a flush of c', devices }));
  t.same(logged, [
    'device "b" hangs: 1 request in flight',
    'device "c" hangs: its last flush, 0 requests in flight',
  ]);
  t.match(thrown, { code: 'ETIME', message: /after 5 ms: still waiting for a flush of c$/ });
});

t.test('looks at the counters when the queue thread does not answer', async (t) => {
  const { logged, thrown } = await waitInVain(() => never);
  t.same(logged, ['device "a" hangs: 3 requests in flight']);
  t.match(thrown, { message: /still waiting for the queue thread, which does not answer$/ });
});

t.test('sends no log lines that nobody wants', async (t) => {
  for (const [logLevel, wanted] of [
    ['error', []],
    ['debug', ['debug']],
  ] as const) {
    const rig = new Rig();
    const levels: string[] = [];
    const port = {
      postMessage(message: object) {
        if ('level' in message) levels.push(String(message.level));
      },
    };
    const options = { engine: 'node', protocol: wholeProtocol, allow: [], logLevel } as const;
    const queue = new Queue(port, rig.engine, options);
    const table = '0 8 memory';
    await rig.engine.wait(
      queue.carryOut({ id: 1, command: 'create', params: { name: 'a', table } }),
    );
    const socket = new FakeSocket(rig.engine, rig.traffic);
    queue.server.accepted(socket, 'peer');
    socket.push(hello('a', simple));
    rig.work();
    t.same(levels, wanted);
  }
});

eachEngine(t, 'ends with status 1 when a disk hangs', [], async (t, engine) => {
  // A minute for each request is as good as for ever.
  const devices = { disk: '0 2048 memory', slow: '0 2048 delay dm:disk 0 600000' };
  const args = ['--shutdown-timeout', '300ms'];
  const daemon = await Daemon.start({ engine, devices, args });
  const client = await RawClient.ready(daemon.socket, 'slow');
  void client.sendRequest({ type: CMD.read, length: 512 });
  await daemon.until('slow', ({ inFlight }) => inFlight === 1);
  const end = await daemon.stop();
  t.match(end, { code: 1, signal: null, left: [], stray: [] });
  const errors = daemon.log.filter(({ level }) => level === 'error');
  t.match(errors, [
    { msg: 'device "slow" hangs: 1 request in flight', table: /delay dm:disk/ },
    { msg: 'ending failed', error: /not ended after 300 ms: still waiting for clients/ },
  ]);
  t.notOk(existsSync(daemon.socket));
});
