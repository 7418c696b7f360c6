/**
 * Metadata contexts as clients use them: what nbdinfo, qemu-img and libnbd say of an origin and its
 * snapshot, several contexts at once, and an incremental backup by what has changed.
 */

import { closeSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import t, { type Test } from 'tap';
import { type Daemon, eachEngine, KiB, linear, MiB, Scratch, withDaemon } from './harness.js';
import { fail, succeed } from './programs.js';
import { libnbd } from './python.js';
import { CMD, contextRequest, OPT, RawClient, REP, u32, u64 } from './raw-client.js';

const bytes = 16 * MiB;
const contexts = ['base:allocation', 'qemu:allocation-depth', 'qemu:dirty-bitmap:monday'];

interface Extent {
  readonly offset: number;
  readonly length: number;
  readonly type: number;
}

/** What is written to the origin after the snapshot, in chunks of 64 KiB. */
const changes = [
  { offset: 0, length: 512 },
  { offset: 1 * MiB + 65_000, length: 2000 },
  { offset: bytes - 64 * KiB, length: 64 * KiB },
];
const dirty: Extent[] = [
  { offset: 0, length: 64 * KiB, type: 1 },
  { offset: 64 * KiB, length: 1 * MiB - 64 * KiB, type: 0 },
  { offset: 1 * MiB, length: 128 * KiB, type: 1 },
  { offset: 1 * MiB + 128 * KiB, length: bytes - 1 * MiB - 192 * KiB, type: 0 },
  { offset: bytes - 64 * KiB, length: 64 * KiB, type: 1 },
];

function patterns(seed: number): string[] {
  return changes.flatMap(({ offset, length }) => ['-c', `write -P ${seed} ${offset} ${length}`]);
}

async function map(daemon: Daemon, name: string, context: string): Promise<Extent[]> {
  const text = await succeed('nbdinfo', [`--map=${context}`, '--json', daemon.uri(name)]);
  const all = JSON.parse(text) as Extent[];
  return all.map(({ offset, length, type }) => ({ offset, length, type }));
}

/** The same by QEMU, which shows a bitmap's dirty parts, and layers, as no data. */
async function qemuMap(daemon: Daemon, name: string, context: string): Promise<Extent[]> {
  const image = `driver=nbd,server.type=unix,server.path=${daemon.socket},export=${name}`;
  const args = ['map', '--output=json', '--image-opts', `${image},x-dirty-bitmap=${context}`];
  const all = JSON.parse(await succeed('qemu-img', args)) as {
    start: number;
    length: number;
    data: boolean;
  }[];
  return all.map(({ start, length, data }) => ({ offset: start, length, type: data ? 0 : 1 }));
}

const programs = ['nbdinfo', 'qemu-img', 'qemu-io', 'nbdcopy', 'python3-libnbd'];

eachEngine(t, 'contexts of a snapshot', programs, async (t, engine) => {
  const files = new Scratch(t);
  const image = files.pattern('disk.img', bytes, 4);
  mkdirSync(files.file('state'));
  await withDaemon(t, { engine, args: ['--state', files.file('state')] }, async (daemon) => {
    await daemon.control('create', 'disk', '--table', linear(image, bytes));
    await daemon.control('snapshot', 'disk', 'monday', '--chunk', '64k');
    const backup = files.file('backup.img');
    await succeed('nbdcopy', [daemon.uri('monday'), backup]);
    await succeed('qemu-io', ['-f', 'raw', ...patterns(0x77), daemon.uri('disk')]);

    await t.test('nbdinfo lists and maps them', async (t) => {
      const list = await succeed('nbdinfo', ['--list', '--json', daemon.uri()]);
      const { exports } = JSON.parse(list) as { exports: { contexts: string[] }[] };
      t.equal(exports.length, 2);
      for (const one of exports) t.strictSame(one.contexts, contexts);
      for (const name of ['disk', 'monday']) {
        t.strictSame(await map(daemon, name, 'qemu:dirty-bitmap:monday'), dirty, name);
      }
      const layers = dirty.map(({ offset, length, type }) => ({ offset, length, type: 2 - type }));
      t.strictSame(await map(daemon, 'monday', 'qemu:allocation-depth'), layers);
      const whole = [{ offset: 0, length: bytes, type: 1 }];
      t.strictSame(await map(daemon, 'disk', 'qemu:allocation-depth'), whole);
      const no = ['--map=qemu:dirty-bitmap:tuesday', daemon.uri('disk')];
      t.match(await fail('nbdinfo', no), /context/);
    });

    await t.test('qemu-img maps them', async (t) => {
      for (const name of ['disk', 'monday']) {
        t.strictSame(await qemuMap(daemon, name, 'qemu:dirty-bitmap:monday'), dirty, name);
      }
      t.strictSame(await qemuMap(daemon, 'monday', 'qemu:allocation-depth'), dirty);
    });

    await t.test('libnbd hears of all at once', async () => {
      const script = `
wanted = ${JSON.stringify(contexts)}
h = connect(uris[0], lambda h: [h.add_meta_context(name) for name in wanted[1:]])
for flags in [0, nbd.CMD_FLAG_REQ_ONE]:
    found = {}
    def chunk(context, at, entries, error):
        assert at == 0 and error.value == 0 and context not in found
        found[context] = list(zip(entries[::2], entries[1::2]))
    h.block_status(${bytes}, 0, chunk, flags)
    assert sorted(found) == sorted(wanted), found
    for context, extents in found.items():
        assert sum(length for length, _ in extents) <= ${bytes}, (context, extents)
        assert flags == 0 or len(extents) == 1, (context, extents)
    assert found[wanted[1]][0] == (65536, 1) and found[wanted[2]][0] == (65536, 1), found
    if flags == 0:
        assert len(found[wanted[1]]) == ${dirty.length} == len(found[wanted[2]]), found
`;
      await libnbd(engine, script, daemon.uri('monday'));
    });

    await t.test('extended headers tell the same, chosen by a payload', async (t) => {
      const client = await RawClient.ready(daemon.socket, 'monday', { extended: true, contexts });
      const chosen = Buffer.concat([u64(BigInt(bytes)), u32(3)]);
      const flags = 0x20;
      const { chunks, data } = await client.request({
        type: CMD.blockStatus,
        flags,
        payload: chosen,
      });
      t.strictSame(chunks, [6]);
      t.equal(data.readUInt32BE(0), 3, 'the context');
      const found = Array.from({ length: data.readUInt32BE(4) }, (_, i) => ({
        length: Number(data.readBigUInt64BE(8 + 16 * i)),
        type: Number(data.readBigUInt64BE(16 + 16 * i)),
      }));
      t.strictSame(
        found,
        dirty.map(({ length, type }) => ({ length, type })),
      );
      const all = await client.request({ type: CMD.blockStatus, length: bytes });
      t.strictSame(all.chunks, [6, 6, 6]);
      client.destroy();
    });

    await t.test('an incremental backup reads no more than what has changed', async (t) => {
      const target = openSync(backup, 'r+');
      const client = await RawClient.ready(daemon.socket, 'disk', { structured: true });
      let read = 0;
      for (const { offset, length, type } of dirty) {
        if (type === 0) continue;
        const { error, data } = await client.request({ type: CMD.read, offset, length });
        t.equal(error, 0);
        writeSync(target, data, 0, length, offset);
        read += length;
      }
      client.destroy();
      closeSync(target);
      t.equal(read, 256 * KiB);
      const now = files.file('now.img');
      await succeed('nbdcopy', [daemon.uri('disk'), now]);
      t.ok(readFileSync(backup).equals(readFileSync(now)), 'it is what the disk is');
      const before = files.file('before.img');
      await succeed('nbdcopy', [daemon.uri('monday'), before]);
      t.notOk(readFileSync(before).equals(readFileSync(now)), 'and not what it was');
    });

    await t.test('a record that is gone is an error, never clean', (t) => gone(t, daemon));
  });
});

async function gone(t: Test, daemon: Daemon): Promise<void> {
  const client = await RawClient.ready(daemon.socket, 'disk', { structured: true, contexts });
  const ask = () => client.request({ type: CMD.blockStatus, length: bytes });
  t.strictSame((await ask()).chunks, [5, 5, 5]);
  await daemon.control('snapshot', '--remove', 'monday');
  const { error, chunks, data } = await ask();
  t.equal(error, 5);
  t.strictSame(chunks, [0x8001]);
  t.match(data.toString(), /qemu:dirty-bitmap:monday: /);
  t.equal((await client.request({ type: CMD.read, length: 512 })).error, 0, 'and goes on');
  const later = await RawClient.greeted(daemon.socket);
  await later.option(OPT.structuredReply);
  const list = await later.option(OPT.listMetaContext, contextRequest('disk'));
  const names = list.filter(({ type }) => type === REP.metaContext);
  t.strictSame(
    names.map(({ data }) => data.toString('utf8', 4)),
    contexts.slice(0, 2),
  );
  client.destroy();
  later.destroy();
}
