/**
 * The protocol as libnbd speaks it, in Python: what its tools do not ask for, and bad requests,
 * which libnbd lets through when its own checks (strict mode) are off.
 */

import t from 'tap';
import { eachEngine, linear, MiB, Scratch, sectorsOf, withDaemon } from './harness.js';
import { libnbd, nbdsh } from './python.js';

const bytes = 128 * MiB;

/** Titles and scripts. `h` is connected, its own checks off. */
const cases: Record<string, string> = {
  'reads back what it wrote, at odd offsets and lengths': `
for offset, length in [(0, 1), (1, 1), (511, 2), (4095, 3), (12345, 54321), (MiB - 1, MiB + 2),
                       (size - 1, 1), (size - 70001, 70001)]:
    data = pattern(length, offset % 251)
    h.pwrite(data, offset)
    assert h.pread(length, offset) == data, (offset, length)
data = pattern(9, 1)
h.pwrite(data, 4092)
assert h.pread(4096, 4090)[2:11] == data
`,
  'FUA on every command': `
assert h.can_fua() and h.can_flush()
h.pwrite(b"x" * 5000, 100, nbd.CMD_FLAG_FUA)
assert h.pread(5000, 100) == b"x" * 5000
h.zero(5000, 100, nbd.CMD_FLAG_FUA)
assert h.pread(5000, 100) == bytes(5000)
h.pread(512, 0, nbd.CMD_FLAG_FUA)
h.flush(nbd.CMD_FLAG_FUA)
if h.can_trim():
    h.trim(65536, 65536, nbd.CMD_FLAG_FUA)
`,
  'DF gives one piece': `
h.zero(MiB, 0)
h.pwrite(b"a" * 4096, 65536)
pieces = []
def chunk(data, offset, kind, error):
    pieces.append((offset, len(data), kind))
h.pread_structured(MiB, 0, chunk, nbd.CMD_FLAG_DF)
assert len(pieces) == 1 and pieces[0][:2] == (0, MiB), pieces
pieces.clear()
h.pread_structured(MiB, 0, chunk)
assert sum(length for _, length, _ in pieces) == MiB, pieces
h.pread_structured(64 * MiB, 0, lambda *_: None, nbd.CMD_FLAG_DF)
`,
  'simple replies': `
with_simple = connect(uris[0], lambda h: (lax(h), h.set_request_structured_replies(False)))
assert not with_simple.get_structured_replies_negotiated()
assert not with_simple.can_df()
data = pattern(300001, 9)
with_simple.pwrite(data, 77)
assert with_simple.pread(300001, 77) == data
with_simple.flush()
with_simple.zero(4096, 0)
fails(errno.EINVAL, with_simple.pread, 4096, size)
fails(errno.EINVAL, with_simple.pread, 4096, 0, nbd.CMD_FLAG_DF)
assert with_simple.pread(4096, 0) == bytes(4096)
`,
  'a handshake with and without the 124 zeroes, and by EXPORT_NAME': `
for flags in [0, nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE, nbd.HANDSHAKE_FLAG_NO_ZEROES,
              nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE | nbd.HANDSHAKE_FLAG_NO_ZEROES]:
    other = connect(uris[0], lambda h: h.set_handshake_flags(flags))
    fixed = flags & nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE
    assert other.get_protocol() == ("newstyle-fixed" if fixed else "newstyle")
    assert other.get_size() == size
    other.pwrite(b"name", 10)
    assert other.pread(4, 10) == b"name"
    other.shutdown()
`,
  'requests of length zero are refused, and the connection goes on': `
fails(errno.EINVAL, h.pread, 0, 0)
fails(errno.EINVAL, h.pwrite, b"", 0)
fails(errno.EINVAL, h.zero, 0, 0)
fails(errno.EINVAL, h.cache, 0, 0)
fails(errno.EINVAL, h.block_status, 0, 0, lambda *_: 0)
h.pread(1, 0)
`,
  'requests past the end': `
fails(errno.EINVAL, h.pread, 1, size)
fails(errno.EINVAL, h.pread, 4096, size - 4095)
fails(errno.ENOSPC, h.pwrite, b"x", size)
fails(errno.ENOSPC, h.pwrite, b"x" * 100, size - 99)
fails(errno.ENOSPC, h.zero, 4096, size)
fails(errno.EINVAL, h.cache, 4096, size)
fails(errno.EINVAL, h.block_status, 4096, size, lambda *_: 0)
for offset in [2**53, 2**63, 2**63 - 1, 2**64 - 4096]:
    fails(errno.EINVAL, h.pread, 4096, offset)
    fails(errno.ENOSPC, h.pwrite, b"x" * 4096, offset)
h.pwrite(b"end", size - 3)
assert h.pread(3, size - 3) == b"end"
`,
  'flags that a command does not have': `
for flags in [nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_REQ_ONE, nbd.CMD_FLAG_FAST_ZERO, 0x100, 0x8000]:
    fails(errno.EINVAL, h.pread, 512, 0, flags)
    fails(errno.EINVAL, h.pwrite, b"y" * 512, 0, flags)
    fails(errno.EINVAL, h.flush, flags)
    fails(errno.EINVAL, h.cache, 512, 0, flags)
for flags in [nbd.CMD_FLAG_DF, nbd.CMD_FLAG_REQ_ONE, 0x20]:
    fails(errno.EINVAL, h.zero, 512, 0, flags)
for flags in [nbd.CMD_FLAG_DF, nbd.CMD_FLAG_NO_HOLE, 0x40]:
    fails(errno.EINVAL, h.block_status, 512, 0, lambda *_: 0, flags)
h.pread(512, 0)
`,
  'what is not advertised': `
if engine == "node":
    assert not h.can_trim() and not h.can_fast_zero()
    fails(errno.EINVAL, h.trim, 4096, 0)
    fails(errno.EINVAL, h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO)
else:
    assert h.can_trim() and h.can_fast_zero()
    h.trim(4096, 0)
    h.pwrite(b"z" * 4096, 0)
    h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO)
    assert h.pread(4096, 0) == bytes(4096)
`,
  'zeroes, kept and as holes': `
h.pwrite(pattern(8 * MiB, 3), 0)
h.zero(MiB + 3, 5)
assert h.pread(5, 0) == pattern(5, 3)
assert h.pread(MiB + 3, 5) == bytes(MiB + 3)
h.zero(MiB, 4 * MiB, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(MiB, 4 * MiB) == bytes(MiB)
assert h.pread(100, 5 * MiB) == pattern(8 * MiB, 3)[5 * MiB:5 * MiB + 100]
h.zero(100 * MiB, 8 * MiB)
assert h.pread(64 * MiB, 40 * MiB) == bytes(64 * MiB)
`,
  'BLOCK_STATUS, whole and one extent at a time': `
h.zero(64 * MiB, 0)
h.pwrite(b"d" * 65536, 16 * MiB)
h.flush()
found = extents(h, 64 * MiB, 0)
if engine == "node":
    assert found == [(64 * MiB, 0)], found
else:
    assert found[:3] == [(16 * MiB, 3), (65536, 0), (48 * MiB - 65536, 3)], found
offset = 0
while offset < 64 * MiB:
    found = extents(h, 64 * MiB - offset, offset, nbd.CMD_FLAG_REQ_ONE)
    assert len(found) == 1 and 0 < found[0][0] <= 64 * MiB - offset, found
    offset += found[0][0]
assert offset == 64 * MiB
found = extents(h, 3, 16 * MiB + 1, nbd.CMD_FLAG_REQ_ONE)
assert found == [(3, 0)], found
`,
  'BLOCK_STATUS without a context': `
none = nbd.NBD()
none.set_strict_mode(0)
none.connect_uri(uris[0])
fails(errno.EINVAL, none.block_status, 512, 0, lambda *_: 0)
none.pread(512, 0)
`,
  CACHE: `
assert h.can_cache()
h.cache(size, 0)
h.cache(1, size - 1)
`,
  'requests of 47.6 and 64 MiB': `
for length in [49912217, 64 * MiB]:
    data = pattern(length, length % 256)
    h.pwrite(data, 3)
    assert h.pread(length, 3) == data, length
`,
  'requests of more than 64 MiB': `
assert h.get_block_size(nbd.SIZE_MAXIMUM) == 64 * MiB
h.zero(100 * MiB, 0)
h.trim(100 * MiB, 0) if h.can_trim() else None
assert sum(length for length, _ in extents(h, 100 * MiB, 0)) > 0
`,
  'a thousand commands in flight': `
count, length = 1000, 16384
buffers, failures = [], []
for i in range(count):
    buffer = nbd.Buffer.from_bytearray(bytearray(pattern(length, i % 256)))
    buffers.append(buffer)
    h.aio_pwrite(buffer, i * length, completion=answered(failures))
finish(h)
assert failures == [], failures
back = []
for i in reversed(range(count)):
    buffer = nbd.Buffer(length)
    back.append((i, buffer))
    h.aio_pread(buffer, i * length, completion=answered(failures))
finish(h)
assert failures == [], failures
for i, buffer in back:
    assert buffer.to_bytearray() == bytearray(pattern(length, i % 256)), i
`,
  'large reads and writes in flight together': `
length = 24 * MiB
data = pattern(length, 11)
buffer = nbd.Buffer.from_bytearray(bytearray(data))
h.pwrite(data, 0)
reads, failures = [], []
for i in range(12):
    into = nbd.Buffer(length)
    reads.append(into)
    h.aio_pread(into, 0, completion=answered(failures))
    h.aio_pwrite(buffer, 32 * MiB, completion=answered(failures))
finish(h)
assert failures == [], failures
for into in reads:
    assert into.to_bytearray() == data
assert h.pread(length, 32 * MiB) == data
`,
  'a flush on one connection covers the writes of all': `
assert h.can_multi_conn()
others = [connect(uris[i % len(uris)]) for i in range(8)]
for i, other in enumerate(others):
    other.pwrite(pattern(4096, i), i * 4096)
h.flush()
for reader in others:
    for i in range(8):
        assert reader.pread(4096, i * 4096) == pattern(4096, i)
others[0].pwrite(b"fua", 9, nbd.CMD_FLAG_FUA)
assert others[7].pread(3, 9) == b"fua"
`,
  'INFO before GO, then another export': `
other = nbd.NBD()
other.set_opt_mode(True)
other.set_full_info(True)
other.connect_uri(uris[0])
names = []
other.opt_list(lambda name, description: names.append((name, description)))
assert ("disk", "linear") in names, names
other.opt_info()
assert other.get_size() == size and other.get_export_description() == "linear"
assert other.get_canonical_export_name() == "disk"
other.set_export_name("nosuch")
fails(errno.ENOENT, other.opt_info)
fails(errno.ENOENT, other.opt_go)
contexts = []
other.set_export_name("disk")
other.opt_list_meta_context(contexts.append)
assert contexts == ["base:allocation", "qemu:allocation-depth"], contexts
other.opt_go()
other.pread(512, 0)
`,
  ABORT: `
other = nbd.NBD()
other.set_opt_mode(True)
other.connect_uri(uris[0])
other.opt_abort()
assert other.aio_is_closed()
`,
};

eachEngine(t, 'libnbd', ['python3-libnbd'], async (t, engine) => {
  const files = new Scratch(t);
  const devices = {
    disk: linear(files.sparse('disk.img', bytes), bytes),
    other: '0 8 zero',
  };
  await withDaemon(t, { engine, devices }, async (daemon) => {
    for (const [title, script] of Object.entries(cases)) {
      const connected = `size = ${bytes}\nh = connect(uris[0], lax)\n${script}\nh.shutdown()\n`;
      await t.test(title, async (t) => {
        await t.resolves(libnbd(engine, connected, daemon.uri('disk'), daemon.tcpUri('disk')));
      });
    }
    await t.test('no connection is left open', async (t) => {
      await t.resolves(daemon.untilUnused('disk'));
    });
  });
});

eachEngine(t, 'nbdsh', ['python3-libnbd'], async (t, engine) => {
  await withDaemon(t, { engine, devices: { disk: '0 2048 memory' } }, async (daemon) => {
    for (const uri of [daemon.uri('disk'), daemon.tcpUri('disk')]) {
      const lines = ['h.pwrite(b"shell", 3)', 'print(h.get_size(), h.pread(7, 2))'];
      const printed = await nbdsh('-u', uri, ...lines.flatMap((line) => ['-c', line]));
      t.equal(printed, "1048576 bytearray(b'\\x00shell\\x00')\n");
    }
  });
});

eachEngine(t, 'libnbd, read-only', ['python3-libnbd'], async (t, engine) => {
  const files = new Scratch(t);
  const image = files.pattern('disk.img', MiB, 8);
  const memory = `0 ${sectorsOf(MiB)} memory`;
  const settings = { engine, devices: { memory }, args: ['-r', image] };
  await withDaemon(t, settings, async (daemon) => {
    await t.test('answers EPERM to every change', async (t) => {
      const script = `
for uri in uris:
    h = connect(uri, lax)
    assert h.is_read_only() and not h.can_zero() and not h.can_trim() and not h.can_fast_zero()
    before = h.pread(${MiB}, 0)
    fails(errno.EPERM, h.pwrite, b"x" * 70000, 0)
    fails(errno.EPERM, h.pwrite, b"x", 0, nbd.CMD_FLAG_FUA)
    fails(errno.EPERM, h.zero, 4096, 0)
    fails(errno.EPERM, h.trim, 4096, 0)
    h.flush()
    assert h.pread(${MiB}, 0) == before
    h.shutdown()
`;
      await t.resolves(libnbd(engine, script, daemon.uri('disk.img'), daemon.uri('memory')));
    });
  });
});
