/** Targets as an NBD client sees them, alone, several in one table, and stacked. */

import { readFileSync } from 'node:fs';
import t from 'tap';
import {
  type Daemon,
  eachEngine,
  KiB,
  linear,
  MiB,
  Scratch,
  sectorsOf,
  withDaemon,
} from './harness.js';
import { succeed } from './programs.js';
import { libnbd } from './python.js';

eachEngine(t, 'striped', ['nbdcopy'], async (t, engine) => {
  const files = new Scratch(t);
  const chunk = 24 * KiB;
  const stripe = 128 * chunk;
  const names = ['a.img', 'b.img', 'c.img'];
  const paths = names.map((name) => files.sparse(name, stripe + 4096));
  // Each stripe from the ninth sector of its file on.
  const words = paths.map((path) => `${path} 8`).join(' ');
  const table = `0 ${sectorsOf(3 * stripe)} striped 3 ${sectorsOf(chunk)} ${words}`;
  await withDaemon(t, { engine, devices: { striped: table } }, async (daemon) => {
    const source = files.pattern('source.img', 3 * stripe, 20);
    await succeed('nbdcopy', ['-C', '4', '--request-size=65536', source, daemon.uri('striped')]);
    await t.test('puts chunks into its files in turn', async (t) => {
      const wanted = readFileSync(source);
      for (const [index, name] of names.entries()) {
        t.ok(files.read(name, 0, 4096).equals(Buffer.alloc(4096)), 'nothing in front');
        for (let i = 0; i < stripe / chunk; i++) {
          const at = (3 * i + index) * chunk;
          const found = files.read(name, 4096 + i * chunk, chunk);
          if (!found.equals(wanted.subarray(at, at + chunk))) t.fail(`chunk ${i} of ${name}`);
        }
      }
    });
    await t.test('gives them back', async (t) => {
      const copy = files.file('copy.img');
      await succeed('nbdcopy', [daemon.tcpUri('striped'), copy]);
      t.ok(readFileSync(copy).equals(readFileSync(source)));
    });
    await t.test('prints its table', async (t) => {
      t.equal((await daemon.control('table', 'striped')).trim(), table);
    });
  });
});

/** Titles, tables (paths filled in) and scripts; `h` is connected to the device, 16 MiB long. */
interface Case {
  readonly table: (path: string) => string;
  readonly script: string;
}

const sectors = sectorsOf(16 * MiB);

const cases: Record<string, Case> = {
  zero: {
    table: () => `0 ${sectors} zero`,
    script: `
h.pwrite(b"gone" * 1024, 0)
assert h.pread(MiB, 0) == bytes(MiB)
h.zero(MiB, 0)
h.trim(MiB, 0)
h.flush()
assert extents(h, 16 * MiB, 0) == [(16 * MiB, 3)]
`,
  },
  'error answers EIO, and the connection goes on': {
    table: () => `0 ${sectors} error`,
    script: `
for i in range(50):
    fails(errno.EIO, h.pread, 4096, 0)
    fails(errno.EIO, h.pwrite, b"x" * 70000, 3)
    fails(errno.EIO, h.zero, 4096, 0)
h.flush()
assert extents(h, 16 * MiB, 0) == [(16 * MiB, 0)]
`,
  },
  'a bad spot in the middle of a disk': {
    table: (path) =>
      `0 2048 linear ${path} 0\n2048 8 error\n2056 ${sectors - 2056} linear ${path} 2056`,
    script: `
data = pattern(3 * MiB, 4)
fails(errno.EIO, h.pwrite, data, 0)
h.pwrite(data[:MiB], 0)
h.pwrite(data[MiB + 4096:], MiB + 4096)
assert h.pread(MiB, 0) == data[:MiB]
assert h.pread(2 * MiB - 4096, MiB + 4096) == data[MiB + 4096:]
fails(errno.EIO, h.pread, 2, MiB - 1)
assert h.pread(1, MiB - 1) == data[MiB - 1:MiB]
failures = []
for i in range(64):
    h.aio_pread(nbd.Buffer(8192), MiB - 16384 + 4096 * (i % 8), completion=answered(failures))
finish(h)
# Of eight reads of 8 KiB from -16 KiB on, the fourth and the fifth touch the spot.
assert failures == [errno.EIO] * 16, failures
h.flush()
`,
  },
  'several targets in one table': {
    table: (path) =>
      [
        `0 1000 linear ${path} 24`,
        '1000 3000 memory',
        `4000 96 striped 2 8 ${path} 8192 ${path} 12288`,
        '4096 4096 zero',
        `8192 ${sectors - 8192} linear ${path} 16384`,
      ].join('\n'),
    script: `
data = pattern(16 * MiB, 6)
h.pwrite(data, 0)
h.flush()
wanted = data[:2 * MiB] + bytes(2 * MiB) + data[4 * MiB:]
assert h.pread(16 * MiB, 0) == wanted
for offset, length in [(999 * 512, 1024), (1000 * 512 - 1, 2), (4000 * 512 - 7, 60000),
                       (4095 * 512, 4098 * 512), (500, 10 * MiB + 1)]:
    assert h.pread(length, offset) == wanted[offset:offset + length], (offset, length)
h.zero(MiB, 1000 * 512 - 4096)
assert h.pread(4096, 1000 * 512 - 4096) == bytes(4096)
assert h.pread(MiB, 1000 * 512) == bytes(MiB - 4096) + wanted[1000 * 512 + MiB - 4096:][:4096]
found = extents(h, 16 * MiB, 0)
assert sum(length for length, _ in found) <= 16 * MiB, found
`,
  },
  memory: {
    table: () => `0 ${sectors} memory`,
    script: `
assert extents(h, 16 * MiB, 0) == [(16 * MiB, 3)]
data = pattern(200001, 1)
h.pwrite(data, 100001)
assert h.pread(200001, 100001) == data
assert h.pread(100001, 0) == bytes(100001)
h.trim(16 * MiB, 0)
assert h.pread(16 * MiB, 0) == bytes(16 * MiB)
assert extents(h, 16 * MiB, 0) == [(16 * MiB, 3)]
`,
  },
  'flakey that is down fails writes': {
    table: (path) => `0 ${sectors} flakey ${path} 0 0 1000 1 error_writes`,
    script: `
assert h.pread(4096, 0) == bytes(4096)
fails(errno.EIO, h.pwrite, b"x" * 4096, 0)
fails(errno.EIO, h.zero, 4096, 0)
fails(errno.EIO, h.flush)
assert h.pread(4096, 0) == bytes(4096)
`,
  },
  'flakey that is down fails everything': {
    table: (path) => `0 ${sectors} flakey ${path} 0 0 1000`,
    script: `
fails(errno.EIO, h.pread, 4096, 0)
fails(errno.EIO, h.pwrite, b"x", 0)
`,
  },
  'flakey that is down drops writes': {
    table: (path) => `0 ${sectors} flakey ${path} 0 0 1000 1 drop_writes`,
    script: `
h.pwrite(b"x" * 4096, 0)
h.zero(4096, 0)
h.flush()
assert h.pread(4096, 0) == bytes(4096)
`,
  },
  'flakey that is down spoils a byte': {
    table: (path) => `0 ${sectors} flakey ${path} 0 0 1000 5 corrupt_bio_byte 3 r 171 0`,
    script: `
assert h.pread(512, 0) == bytes(2) + b"\\xab" + bytes(509)
assert h.pread(2, 0) == bytes(2)
`,
  },
  'flakey that is up': {
    table: (path) => `0 ${sectors} flakey ${path} 0 1000 1`,
    script: `
h.pwrite(b"x" * 4096, 0)
h.flush()
assert h.pread(4096, 0) == b"x" * 4096
`,
  },
  delay: {
    table: (path) => `0 ${sectors} delay ${path} 0 20 ${path} 0 30 ${path} 0 5`,
    script: `
data = pattern(MiB, 5)
failures = []
buffers = [nbd.Buffer.from_bytearray(bytearray(data)) for i in range(8)]
for i, buffer in enumerate(buffers):
    h.aio_pwrite(buffer, i * MiB, completion=answered(failures))
finish(h)
h.flush()
into = [nbd.Buffer(MiB) for i in range(8)]
for i, buffer in enumerate(into):
    h.aio_pread(buffer, i * MiB, completion=answered(failures))
finish(h)
assert failures == [], failures
assert all(buffer.to_bytearray() == data for buffer in into)
`,
  },
  'a file under O_DIRECT, aligned and not': {
    table: (path) => `0 ${sectors} linear file://${path}?direct=1 0`,
    script: `
assert h.get_block_size(nbd.SIZE_MINIMUM) == 1
data = pattern(4 * MiB, 2)
h.pwrite(data, 0)
for offset, length in [(1, 1), (511, 514), (4096, 8192), (4095, 8194), (513, 70001), (3, 3 * MiB)]:
    assert h.pread(length, offset) == data[offset:offset + length], (offset, length)
h.pwrite(b"odd" * 1001, 4099)
h.pwrite(b"fua" * 1001, 12289, nbd.CMD_FLAG_FUA)
h.zero(5, 20481)
wanted = bytearray(data)
wanted[4099:4099 + 3003] = b"odd" * 1001
wanted[12289:12289 + 3003] = b"fua" * 1001
wanted[20481:20486] = bytes(5)
assert h.pread(4 * MiB, 0) == wanted
h.flush()
`,
  },
};

eachEngine(t, 'targets', ['python3-libnbd'], async (t, engine) => {
  const files = new Scratch(t);
  await withDaemon(t, { engine, devices: { first: '0 8 zero' } }, async (daemon) => {
    for (const [index, [title, { table, script }]] of Object.entries(cases).entries()) {
      await t.test(title, async (t) => {
        const name = `device${index}`;
        const path = files.sparse(`${name}.img`, 32 * MiB);
        await daemon.call('create', { name, table: table(path) });
        const whole = `h = connect(uris[0], lax)\n${script}\nh.shutdown()\n`;
        await t.resolves(libnbd(engine, whole, daemon.uri(name)));
        await daemon.untilUnused(name);
        // Some of them refuse the flush that comes with a removal.
        await daemon.call('suspend', { name, noFlush: true });
        await daemon.call('remove', { name });
      });
    }
  });
});

eachEngine(t, 'stacked devices', ['python3-libnbd'], async (t, engine) => {
  const files = new Scratch(t);
  const path = files.sparse('disk.img', 16 * MiB);
  const devices = {
    low: linear(path, 16 * MiB),
    middle: '0 16384 linear dm:low 16384\n16384 16384 linear /dev/mapper/low 0',
    high: '0 8192 striped 2 8 dm:middle 0 dm:middle 16384',
  };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    await t.test('read and write through each other', async (t) => {
      const script = `
low, middle, high = [connect(uri) for uri in uris]
data = pattern(16 * MiB, 3)
middle.pwrite(data, 0)
assert low.pread(8 * MiB, 8 * MiB) == data[:8 * MiB]
assert low.pread(8 * MiB, 0) == data[8 * MiB:]
assert high.pread(4096, 4096) == data[8 * MiB:8 * MiB + 4096]
high.pwrite(b"h" * 12288, 0)
high.flush()
assert low.pread(4096, 0) == b"h" * 4096
assert low.pread(8192, 8 * MiB) == b"h" * 8192
if low.can_trim():
    assert middle.can_trim() and high.can_trim()
    high.trim(4 * MiB, 0)
    high.pread(4 * MiB, 0)
`;
      const uris = ['low', 'middle', 'high'].map((name) => daemon.uri(name));
      await t.resolves(libnbd(engine, script, ...uris));
    });
    await t.test('cannot be removed from below', async (t) => {
      await t.rejects(daemon.call('remove', { name: 'low' }), {
        message: /in use|busy/i,
      });
      t.ok((await daemon.call('info', { name: 'low' })).openCount > 0);
      t.strictSame((await daemon.call('info', { name: 'middle' })).dependencies, ['low']);
    });
    await t.test('are refused as a circle', async (t) => {
      const table = '0 8 linear dm:high 0';
      await t.rejects(daemon.call('load', { name: 'low', table }), {
        message: /./,
      });
    });
    await t.test('come apart from above', async (t) => {
      for (const name of ['high', 'middle', 'low']) {
        await daemon.untilUnused(name);
        await daemon.call('remove', { name });
      }
      t.strictSame(await daemon.call('ls', {}), []);
    });
  });
});

eachEngine(t, 'tables that change size', ['python3-libnbd'], async (t, engine) => {
  const files = new Scratch(t);
  const small = linear(files.sparse('small.img', MiB), MiB);
  await withDaemon(t, { engine, devices: { disk: small } }, async (daemon) => {
    const grow = async (daemon: Daemon): Promise<void> => {
      const large = `${small}\n2048 2048 memory`;
      await daemon.call('load', { name: 'disk', table: large });
      await daemon.call('resume', { name: 'disk' });
    };
    await t.test('are seen by clients that connect afterwards', async (t) => {
      await grow(daemon);
      const script = `
h = connect(uris[0])
assert h.get_size() == 2 * MiB
h.pwrite(b"both" * 4096, MiB - 8192)
assert h.pread(16384, MiB - 8192) == b"both" * 4096
`;
      await t.resolves(libnbd(engine, script, daemon.uri('disk')));
      await daemon.control('load', 'disk', '--table', small);
      await daemon.control('resume', 'disk');
      const back = 'assert connect(uris[0]).get_size() == MiB';
      await t.resolves(libnbd(engine, back, daemon.uri('disk')));
    });
  });
});
