import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import { crc32c } from '../../src/base/crc32c.js';
import { entryBits, RegionTable, slotBytes } from '../../src/target/switch/region-table.js';
import {
  checkedRegions,
  decodeRegions,
  decodeSections,
  encodeRegions,
  packEntries,
  parseRegionHeader,
  RegionEntryReader,
  type RegionSection,
  unpackEntries,
} from '../../src/target/switch/upload-format.js';

/** Bit by bit, as the standard defines it. */
function slowCrc(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  }
  return ~crc >>> 0;
}

t.test('CRC-32C', async (t) => {
  t.test('is the one of iSCSI', async (t) => {
    t.equal(crc32c(Buffer.from('123456789')), 0xe3069283);
    t.equal(crc32c(new Uint8Array(32)), 0x8a9136aa);
    t.equal(crc32c(new Uint8Array(32).fill(0xff)), 0x62a8ab43);
    t.equal(crc32c(Uint8Array.from({ length: 32 }, (_, at) => at)), 0x46dd794e);
    t.equal(crc32c(new Uint8Array(0)), 0);
  });

  t.test('is the same from any place in memory on, for any length', async () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 100 }), fc.nat(7), (bytes, at) => {
        const moved = new Uint8Array(at + bytes.length + 8);
        moved.set(bytes, at);
        return crc32c(moved.subarray(at, at + bytes.length)) === slowCrc(bytes);
      }),
    );
  });
});

const entries = fc.integer({ min: 1, max: 16 }).chain((bits) =>
  fc.record({
    bits: fc.constant(bits),
    paths: fc.array(fc.nat(2 ** bits - 1), { minLength: 1, maxLength: 300 }),
  }),
);

t.test('entries', async (t) => {
  t.test('come out of their slots as they went in, for 1 to 16 bits', async () => {
    fc.assert(
      fc.property(entries, ({ bits, paths }) => {
        const slots = packEntries(paths, bits);
        const perSlot = Math.floor(64 / bits);
        if (slots.byteLength !== Math.ceil(paths.length / perSlot) * 8) return false;
        // What the layout says, in big integers.
        const view = new DataView(slots);
        const asSaid = paths.every((path, at) => {
          const slot = view.getBigUint64(Math.floor(at / perSlot) * 8, true);
          return (
            ((slot >> BigInt((at % perSlot) * bits)) & (2n ** BigInt(bits) - 1n)) === BigInt(path)
          );
        });
        const count = paths.length;
        return (
          asSaid && unpackEntries({ slots, bits, count }).every((path, at) => path === paths[at])
        );
      }),
    );
  });

  t.test('are what a region table downloads and takes', async () => {
    const parts = fc.record({
      paths: fc.integer({ min: 1, max: 300 }),
      regions: fc.integer({ min: 1, max: 500 }),
      seed: fc.array(fc.nat(65_535), { minLength: 1, maxLength: 40 }),
      cut: fc.nat(499),
    });
    fc.assert(
      fc.property(parts, ({ paths, regions, seed, cut }) => {
        const wanted = Array.from(
          { length: regions },
          (_, at) => ((seed[at % seed.length] as number) + at) % paths,
        );
        const bits = entryBits(paths);
        const slots = packEntries(wanted, bits);
        const about = { paths, regions, bits, regionSectors: 8 };
        const table = RegionTable.fromUpload({
          ...about,
          whole: true,
          first: 0,
          count: regions,
          slots,
        });
        const first = cut % regions;
        const part = table.download(first, regions - first);
        const read = new RegionEntryReader(part);
        return wanted.slice(first).every((path) => read.next() === path);
      }),
    );
  });
});

/** Four paths, ten regions of 8 sectors, everything on path 3 and 1 by turns. */
function section(more: Partial<RegionSection['table']> = {}): RegionSection {
  const paths = [3, 1, 3, 1, 3, 1, 3, 1, 3, 1];
  const about = {
    whole: true,
    regions: 10,
    regionSectors: 8,
    paths: 4,
    bits: 2,
    first: 0,
    count: 10,
  };
  const table = { ...about, slots: packEntries(paths, 2), ...more };
  return { sector: 2048, table };
}

const bytesOf = (one: RegionSection): Buffer => Buffer.concat(encodeRegions(one));

/** With a header that is right about itself. */
function changed(change: (view: DataView) => void, one = section()): Buffer {
  const bytes = bytesOf(one);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  change(view);
  view.setUint32(60, slowCrc(bytes.subarray(0, 60)), true);
  return bytes;
}

t.test('the format', async (t) => {
  t.test('is this, byte by byte', async (t) => {
    t.equal(
      bytesOf(section()).toString('hex'),
      [
        '6d61707265676e73', // mapregns
        '0100', // version
        '0100', // whole
        '02000000', // bits
        '04000000', // paths
        '08000000', // sectors of a region
        '0a00000000000000', // regions
        '0000000000000000', // first
        '0a00000000000000', // count
        '0008000000000000', // sector of the target
        crcText(Buffer.from('7777070000000000', 'hex')),
        crcText(bytesOf(section()).subarray(0, 60)),
        '7777070000000000',
      ].join(''),
    );
    function crcText(bytes: Uint8Array): string {
      const crc = Buffer.alloc(4);
      crc.writeUInt32LE(slowCrc(bytes));
      return crc.toString('hex');
    }
  });

  t.test('parses what it made, whole tables and segments', async (t) => {
    const { sector, table } = decodeRegions(bytesOf(section()));
    t.equal(sector, 2048);
    t.match(table, { whole: true, regions: 10, regionSectors: 8, paths: 4, bits: 2, count: 10 });
    t.same([...unpackEntries(table)], [3, 1, 3, 1, 3, 1, 3, 1, 3, 1]);
    const segment = { whole: false, regions: 2 ** 28, first: 2 ** 28 - 10 };
    t.match(decodeRegions(bytesOf(section(segment))).table, { ...segment, count: 10 });
  });

  t.test('parses tables that lie one behind the other', async (t) => {
    const other = { ...section({ whole: false, regions: 20, first: 10 }), sector: 2 ** 40 };
    const found = decodeSections(Buffer.concat([bytesOf(section()), bytesOf(other)]));
    t.same(
      found.map((one) => one.sector),
      [2048, 2 ** 40],
    );
    t.throws(() => decodeSections(Buffer.alloc(0)), /has 0 bytes, its header alone 64/);
    t.throws(() => decodeSections(bytesOf(section()).subarray(0, 70)), /slots have 6 bytes/);
  });

  t.test('rejects what is wrong, in words', async (t) => {
    const wrong = (bytes: Uint8Array, message: RegExp): void => {
      t.throws(() => decodeRegions(bytes), { code: 'EINVAL', message }, `${message}`);
    };
    const set32 = (at: number, value: number) => changed((view) => view.setUint32(at, value, true));
    const set64 = (at: number, value: number) =>
      changed((view) => view.setBigUint64(at, BigInt(value), true));
    wrong(bytesOf(section()).subarray(0, 63), /^region table has 63 bytes, its header alone 64$/);
    wrong(Buffer.alloc(64), /begins with "\\u0000.*", wanted "mapregns"$/);
    wrong(
      changed((view) => view.setUint16(8, 2, true)),
      /^version is 2, wanted 1$/,
    );
    wrong(
      changed((view) => view.setUint16(8, 1, false)),
      /^numbers are in big-endian order, wanted little-endian$/,
    );
    wrong(
      changed((view) => view.setUint16(10, 2, true)),
      /^flags are 0x00000002, wanted 0 or 1$/,
    );
    wrong(set32(12, 3), /^entries of 3 bits, wanted 2 for 4 paths$/);
    wrong(set32(16, 0), /^0 paths, wanted 1 to 65536$/);
    wrong(set32(16, 65_537), /^65537 paths/);
    wrong(set32(20, 0), /^region size is 0 sectors, wanted 1 or more$/);
    wrong(set64(24, 0), /^table of 0 regions, wanted 1 to 268435456$/);
    wrong(set64(24, 2 ** 40), /^table of 1099511627776 regions/);
    wrong(
      changed((view) => view.setBigUint64(24, 2n ** 63n, true)),
      /^number of regions is 9223372036854776000, wanted less than 2\^53$/,
    );
    wrong(set64(32, 1), /^regions 1 to 10, the table has 10$/);
    wrong(set64(40, 0), /^entries of 0 regions, wanted 1 or more$/);
    wrong(set64(40, 9), /^whole table with entries of 9 regions, wanted all 10$/);
    wrong(bytesOf(section()).subarray(0, 64), /^slots have 0 bytes, wanted 8 for 10 regions of 2/);
    wrong(Buffer.concat([bytesOf(section()), Buffer.of(0)]), /^1 bytes too many: found 73$/);
    const flipped = bytesOf(section());
    flipped[70] = 1;
    wrong(flipped, /^CRC-32C of the slots is 0x[0-9a-f]{8}, wanted 0x[0-9a-f]{8}$/);
    flipped[50] = 1;
    wrong(flipped, /^CRC-32C of the header is 0x[0-9a-f]{8}, wanted 0x[0-9a-f]{8}$/);
  });

  t.test('rejects paths that there are not, with the region', async (t) => {
    const three = section({ paths: 3 });
    t.throws(() => decodeRegions(bytesOf(three)), {
      message: 'region 0 is on path 3, wanted less than 3',
    });
    const late = Array.from({ length: 100 }, (_, at) => (at === 77 ? 5 : at % 5));
    const about = { whole: false, regions: 1000, paths: 5, bits: 3, first: 900, count: 100 };
    const table = section({ ...about, slots: packEntries(late, 3) });
    t.throws(() => decodeRegions(bytesOf(table)), {
      message: 'region 977 is on path 5, wanted less than 5',
    });
  });

  t.test('does not look at bits that are left over', async (t) => {
    const one = section({ paths: 3, slots: packEntries([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 3], 2) });
    t.equal(decodeRegions(bytesOf(one)).table.count, 10);
  });

  t.test('either takes any damage as no table, or is not touched by it', async () => {
    const bytes = bytesOf(section());
    fc.assert(
      fc.property(fc.nat(bytes.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const damaged = Buffer.from(bytes);
        damaged[at] = (damaged[at] as number) ^ flip;
        try {
          decodeRegions(damaged);
          return false;
        } catch (error) {
          return /^(region table begins|version|CRC-32C|numbers are)/.test(
            (error as Error).message,
          );
        }
      }),
    );
  });

  t.test('checks slots apart from their header', async (t) => {
    const [header, slots] = encodeRegions(section());
    const parsed = parseRegionHeader(header);
    t.equal(parsed.slotBytes, slotBytes(10, 2));
    t.equal(checkedRegions(parsed, slots.buffer as SharedArrayBuffer).slots, slots.buffer);
    t.throws(() => checkedRegions(parsed, new SharedArrayBuffer(16)), /slots have 16 bytes/);
  });
});

const compiler = ['gcc', 'cc'].find((name) => spawnSync(name, ['--version']).status === 0);

t.test(
  'the C program in the README writes a table',
  { skip: compiler === undefined ? 'no C compiler' : false },
  async (t) => {
    const readme = readFileSync('src/target/switch/README.md', 'utf8');
    const program = /```c\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';
    const lines = program.trimEnd().split('\n');
    t.ok(lines.length >= 20 && lines.length <= 50, `${lines.length} lines`);
    t.ok(lines.every((line) => line.length <= 100));
    const directory = mkdtempSync(join(tmpdir(), 'mapperd-regions-'));
    t.teardown(() => rmSync(directory, { recursive: true }));
    const [source, binary] = [join(directory, 'table.c'), join(directory, 'table')];
    writeFileSync(source, program);
    const flags = ['-std=c99', '-Wall', '-Wextra', '-Werror', '-o', binary, source];
    const compiled = spawnSync(compiler as string, flags, { encoding: 'utf8' });
    t.equal(compiled.status, 0, compiled.stderr);
    const made = spawnSync(binary, { maxBuffer: 1 << 24 });
    t.equal(made.status, 0);
    const { sector, table } = decodeRegions(made.stdout);
    t.equal(sector, 0);
    t.match(table, { whole: true, regions: 1_572_864, regionSectors: 128, paths: 5, bits: 3 });
    const wanted = (region: number): number => (region < 1000 ? 4 : Math.floor(region / 16) % 5);
    t.ok(unpackEntries(table).every((path, region) => path === wanted(region)));
  },
);
