import t from 'tap';
import {
  controlBatchRequests,
  controlReplyBytes,
  controlTableBytes,
} from '../../src/base/limits.js';
import { Catalogue } from '../../src/control/catalogue.js';
import { controlMethods } from '../../src/control/commands.js';
import type { Topic } from '../../src/control/messages.js';
import { Regions } from '../../src/control/regions.js';
import { Rpc } from '../../src/control/rpc.js';
import { Snapshots } from '../../src/control/snapshots.js';
import { FakeQueue } from './fake-queue.js';
import { QuietLog } from './quiet-log.js';
import { someVersion as version } from './some-version.js';

function setUp() {
  const queue = new FakeQueue();
  const log = new QuietLog();
  const catalogue = new Catalogue(queue, null, log);
  const snapshots = new Snapshots(queue, catalogue, null, log);
  const regions = new Regions(queue, catalogue, log);
  const rpc = new Rpc(controlMethods({ queue, catalogue, snapshots, regions, version }), log);
  const client = {
    topics: new Set<Topic>(),
    receive: async (): Promise<never> => {
      throw new Error('no frames here');
    },
    attach: () => {},
  };
  const text = (message: string): Promise<string | null> => rpc.answer(message, client);
  const ask = async (message: unknown): Promise<unknown> => {
    const reply = await text(JSON.stringify(message));
    return reply === null ? null : JSON.parse(reply);
  };
  /** A request's result or error. */
  const call = async (
    method: string,
    params?: unknown,
  ): Promise<{ result?: unknown; error?: unknown }> => {
    const reply = await ask({ jsonrpc: '2.0', id: 7, method, params });
    return reply as { result?: unknown; error?: unknown };
  };
  return { queue, log, text, ask, call, client };
}

const errorOf = (code: number, message: RegExp | string) => ({ error: { code, message } });

t.test('JSON-RPC', async (t) => {
  const { text, ask, call } = setUp();

  t.test('answers -32700 to what is no JSON', async (t) => {
    for (const wrong of ['', '{', 'hello', '{"jsonrpc":"2.0",}', '[1', '\u0000']) {
      t.match(JSON.parse((await text(wrong)) as string), {
        jsonrpc: '2.0',
        id: null,
        ...errorOf(-32700, /^parse error/),
      });
    }
  });

  t.test('answers -32600 to JSON that is no request', async (t) => {
    for (const wrong of [
      1,
      null,
      'ls',
      {},
      { jsonrpc: '1.0', id: 1, method: 'ls' },
      { jsonrpc: '2.0', id: 1 },
      { jsonrpc: '2.0', id: 1, method: 5 },
      { jsonrpc: '2.0', id: {}, method: 'ls' },
      { jsonrpc: '2.0', id: true, method: 'ls' },
      { jsonrpc: '2.0', id: 1, method: 'ls', parameters: {} },
    ]) {
      t.match(await ask(wrong), errorOf(-32600, /^invalid request/), JSON.stringify(wrong));
    }
    t.match(await ask({ jsonrpc: '1.0', id: 'x', method: 'ls' }), { id: 'x' });
    t.match(await ask({ jsonrpc: '2.0', id: {}, method: 'ls' }), { id: null });
  });

  t.test('answers -32601 to a method that is not there', async (t) => {
    for (const name of ['', 'LS', 'toString', '__proto__', 'constructor', 'shutdown', 'listen']) {
      t.match(await call(name), errorOf(-32601, `no method ${JSON.stringify(name)}`));
    }
  });

  t.test('gives back the id as it was, and null for null', async (t) => {
    for (const id of [0, -1, 1.5, 'one', '', null]) {
      t.same(await ask({ jsonrpc: '2.0', id, method: 'ls' }), { jsonrpc: '2.0', id, result: [] });
    }
  });

  t.test('says nothing to a notification, not even that it failed', async (t) => {
    t.equal(await ask({ jsonrpc: '2.0', method: 'ls' }), null);
    t.equal(await ask({ jsonrpc: '2.0', method: 'none' }), null);
    t.equal(await ask({ jsonrpc: '2.0', method: 'remove', params: { name: 'a' } }), null);
  });

  t.test('carries out a batch in its order', async (t) => {
    const { ask, queue } = setUp();
    const request = (id: number, method: string, params: object) => ({
      jsonrpc: '2.0',
      id,
      method,
      params,
    });
    const replies = await ask([
      request(1, 'create', { name: 'a', table: '0 8 zero' }),
      { jsonrpc: '2.0', method: 'load', params: { name: 'a', table: '0 16 error' } },
      request(2, 'suspend', { name: 'a' }),
      5,
      request(3, 'resume', { name: 'a' }),
      request(4, 'table', { name: 'a' }),
    ]);
    t.match(replies, [
      { id: 1, result: null },
      { id: 2, result: null },
      { id: null, error: { code: -32600 } },
      { id: 3, result: null },
      { id: 4, result: [{ beginSectors: 0, lengthSectors: 16, type: 'error', words: '' }] },
    ]);
    t.same(queue.calls, ['create a', 'load a', 'suspend a', 'resume a', 'table a']);
    t.equal(await ask([{ jsonrpc: '2.0', method: 'ls' }]), null);
  });

  t.test('rejects batches that are empty or too long', async (t) => {
    t.match(await ask([]), errorOf(-32600, /^batch of 0 requests/));
    const one = { jsonrpc: '2.0', id: 1, method: 'ls' };
    t.match(await ask(Array(controlBatchRequests + 1).fill(one)), errorOf(-32600, /^batch of 65/));
    t.match(await ask(Array(controlBatchRequests).fill(one)), { length: controlBatchRequests });
  });

  t.test('answers E2BIG in place of a reply that is too long', async (t) => {
    const { ask, queue } = setUp();
    queue.call = async () => 'x'.repeat(controlReplyBytes - 1000) as never;
    const one = { jsonrpc: '2.0', id: 1, method: 'info', params: { name: 'a' } };
    const replies = (await ask([one, one])) as unknown[];
    t.match(replies[0], { result: String });
    t.match(replies[1], { error: { code: -32000, data: { code: 'E2BIG' } } });
  });

  t.test('answers -32603 to a fault of its own and logs it', async (t) => {
    const { call, queue, log } = setUp();
    queue.before = () => {
      throw new TypeError('oops');
    };
    t.match(await call('ls'), errorOf(-32603, 'internal error: oops'));
    t.same(log.texts, ['control request failed unexpectedly']);
  });
});

t.test('parameters', async (t) => {
  const { call } = setUp();
  const refused = async (method: string, params: unknown, message: RegExp) => {
    t.match(await call(method, params), errorOf(-32602, message), JSON.stringify(params));
  };

  t.test('rejects what is no object, unknown keys, wrong types', async () => {
    await refused('ls', [], /^ls: wanted parameters by name, in an object/);
    await refused('ls', 'all', /^ls: wanted Object, found "all"/);
    await refused('ls', { all: true }, /^ls: all: unknown key/);
    await refused('suspend', { name: 'a', noflush: true }, /^suspend: noflush: unknown key/);
    await refused('suspend', { name: 'a', noFlush: 1 }, /^suspend: noFlush: wanted boolean/);
    await refused('resume', {}, /^resume: name: missing/);
    await refused('resume', { name: null }, /^resume: name: wanted string, found null/);
    await refused('subscribe', { topics: ['all'] }, /^subscribe: topics\.0: wanted \("device"/);
    await refused(
      'create',
      JSON.parse('{"name":"a","__proto__":1}'),
      /^create: __proto__: unknown/,
    );
  });

  t.test('rejects names that no device has', async (t) => {
    await refused('info', { name: '' }, /name: device name is empty/);
    await refused('info', { name: 'a/b' }, /name: device name "a\/b" has a "\/", wanted none/);
    await refused('info', { name: 'a\n' }, /name: device name "a\\n" has a control character/);
    await refused('info', { name: 'a\u0085' }, /has a control character/);
    await refused('info', { name: 'a\ud800' }, /has a control character/);
    await refused(
      'info',
      { name: 'ü'.repeat(64) },
      /device name has 128 bytes, wanted at most 127/,
    );
    await refused('rename', { name: 'a', newName: '/' }, /^rename: newName: device name/);
    t.match(await call('info', { name: 'ü'.repeat(63) }), { error: { data: { code: 'ENXIO' } } });
  });

  t.test('rejects tables that are too long or no text', async () => {
    const table = `0 8 zero${' '.repeat(controlTableBytes)}`;
    await refused('load', { name: 'a', table }, /^load: table: table is too long/);
    await refused('load', { name: 'a', table: '0 8 zero\0' }, /table has a control character/);
    await refused('load', { name: 'a', table: ['0 8 zero'] }, /table: wanted string, found Array/);
  });

  t.test('rejects messages without words and sectors that are none', async (t) => {
    const message = (sector: unknown, words: unknown) => ({ name: 'a', sector, words });
    await refused('message', message(0, []), /message has no words/);
    await refused('message', message(0, ['']), /words\.0: word is empty/);
    await refused('message', message(0, ['a', 5]), /words\.1: wanted string, found 5/);
    await refused('message', message(0, ['a\n']), /words\.0: word has a control character/);
    await refused('message', message(-1, ['a']), /sector: sector is no integer/);
    await refused('message', message(0.5, ['a']), /sector: sector is no integer/);
    await refused('message', message('0', ['a']), /sector: wanted number, found "0"/);
    await call('create', { name: 'a', table: '0 8 zero' });
    t.match(await call('message', message(3, ['one two', '-x'])), { result: '3: one two|-x' });
  });
});

t.test('methods', async (t) => {
  t.test('tell which command failed on which device, with the errno', async (t) => {
    const { call } = setUp();
    const missing = (command: string) => ({
      error: {
        code: -32000,
        message: `${command} none: no device "none"`,
        data: { code: 'ENXIO', errno: 6 },
      },
    });
    for (const command of ['clear', 'suspend', 'resume', 'remove', 'table', 'status', 'info']) {
      t.match(await call(command, { name: 'none' }), missing(command));
    }
    t.match(await call('rename', { name: 'none', newName: 'x' }), missing('rename'));
    t.match(await call('stats', { name: 'none' }), { error: { data: { code: 'ENXIO' } } });
  });

  t.test('give one device or all of them', async (t) => {
    const { call } = setUp();
    await call('create', { name: 'b', table: '0 8 zero', readOnly: true });
    await call('create', { name: 'a', table: '0 8 linear dm:b 0' });
    const line = (type: string, words: string) => ({
      beginSectors: 0,
      lengthSectors: 8,
      type,
      words,
    });
    const lines = [line('linear', 'dm:b 0')];
    t.same((await call('table', { name: 'a' })).result, lines);
    t.same((await call('table')).result, [
      { name: 'b', lines: [line('zero', '')] },
      { name: 'a', lines },
    ]);
    t.same((await call('table', { name: 'a', inactive: true })).result, []);
    t.match(await call('status', { name: 'a' }), { result: [line('linear', '')] });
    t.match(await call('info', { name: 'b' }), { result: { readOnly: true, state: 'ACTIVE' } });
    t.match(await call('ls'), { result: [{ name: 'b' }, { name: 'a', dependencies: ['b'] }] });
    t.match(await call('targets'), { result: [{ name: 'zero', version: [1, 2, 0] }] });
    t.same((await call('version')).result, version);
    t.match(await call('stats'), {
      result: [
        { name: 'a', reads: 1, readBytes: 4096, latency: { read: { count: 1 } } },
        { name: 'b' },
      ],
    });
  });

  t.test('leave out a device that goes while all are listed', async (t) => {
    const { call, queue } = setUp();
    await call('create', { name: 'a', table: '0 8 zero' });
    await call('create', { name: 'b', table: '0 8 zero' });
    queue.before = (command, name) => {
      if (command === 'table' && name === 'a') queue.devices.delete('a');
    };
    t.match(await call('table'), { result: [{ name: 'b' }] });
  });

  t.test('subscribe and unsubscribe', async (t) => {
    const { call } = setUp();
    t.match(await call('subscribe'), { result: ['device', 'target', 'connection'] });
    t.match(await call('subscribe', { topics: ['log'] }), {
      result: ['device', 'target', 'connection', 'log'],
    });
    t.match(await call('unsubscribe', { topics: ['device', 'target'] }), {
      result: ['connection', 'log'],
    });
    t.same((await call('unsubscribe')).result, []);
  });
});
