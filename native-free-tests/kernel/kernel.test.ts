/** What is known of the kernel's nbd driver without having one: bytes, files, decisions. */

import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import fc from 'fast-check';
import t, { type Test } from 'tap';
import { checkBlockSize, chooseBlockSize } from '../../src/kernel/block-size.js';
import { ClientHandshake } from '../../src/kernel/handshake.js';
import { indexOf, NbdDevices } from '../../src/kernel/nbd-devices.js';
import {
  controller,
  driver,
  find,
  nested,
  packRequest,
  text,
  u32,
  u64,
  unpackAttributes,
  unpackMessages,
} from '../../src/kernel/netlink-message.js';
import type { Probe } from '../../src/kernel/probe.js';

/** A folder that stands for /, with these files. */
function rootWith(t: Test, files: Record<string, string>): string {
  const root = mkdtempSync(join(tmpdir(), 'mapperd-kernel-'));
  t.teardown(() => rmSync(root, { recursive: true }));
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content);
  }
  return root;
}

t.test('netlink: packs a request as the kernel wants it', (t) => {
  // nlmsghdr, genlmsghdr; NBD_ATTR_INDEX 5; NBD_ATTR_DEAD_CONN_TIMEOUT 600.
  const wanted = [
    '28000000 2300 0500 07000000 00000000',
    '03 01 0000',
    '0800 0100 05000000',
    '0c00 0800 5802000000000000',
  ];
  const attributes = [u32(driver.index, 5), u64(driver.deadConnectionTimeout, 600)];
  const packed = packRequest(0x23, driver.reconfigure, 7, attributes);
  t.equal(packed.toString('hex'), wanted.join('').replaceAll(' ', ''));
  t.end();
});

t.test('netlink: nests attributes, and pads what is no multiple of four', (t) => {
  const sockets = nested(driver.sockets, [
    nested(driver.socketItem, [u32(driver.socketFd, 9)]),
    nested(driver.socketItem, [u32(driver.socketFd, 11)]),
  ]);
  t.equal(
    sockets.toString('hex'),
    '1c000780'.concat('0c000180', '08000100', '09000000', '0c000180', '08000100', '0b000000'),
  );
  t.equal(text(controller.familyName, 'nbd').toString('hex'), '08000200'.concat('6e626400'));
  t.equal(text(1, 'four').toString('hex'), '09000100'.concat('666f7572', '00000000'));
  t.end();
});

t.test('netlink: unpacks answers, errors and events of one datagram', (t) => {
  const error = Buffer.alloc(36);
  error.writeUInt32LE(36, 0);
  error.writeUInt16LE(2, 4);
  error.writeInt32LE(-22, 16);
  const event = packRequest(0x23, driver.linkDead, 0, [u32(driver.index, 3)]);
  const messages = unpackMessages(Buffer.concat([event, error]));
  t.equal(messages.length, 2);
  t.equal(messages[0]?.command, driver.linkDead);
  t.equal(messages[0]?.error, null);
  t.equal(find(messages[0]?.attributes ?? [], driver.index)?.readUInt32LE(0), 3);
  t.equal(messages[1]?.error, -22);
  t.equal(find(messages[0]?.attributes ?? [], 99), null);
  t.end();
});

t.test('netlink: any bytes are unpacked or rejected, never read past', (t) => {
  const values = fc.uint8Array({ maxLength: 9 });
  const lists = fc.array(fc.record({ type: fc.integer({ min: 1, max: 0x3fff }), value: values }));
  fc.assert(
    fc.property(lists, (list) => {
      const parts = list.map(({ type, value }) => {
        const part = Buffer.alloc((4 + value.length + 3) & ~3);
        part.writeUInt16LE(4 + value.length, 0);
        part.writeUInt16LE(type | 0x8000, 2);
        part.set(value, 4);
        return part;
      });
      const found = unpackAttributes(Buffer.concat(parts));
      return found.every(
        ({ type, value }, at) =>
          type === list[at]?.type && value.equals(Buffer.from(list[at]?.value ?? [])),
      );
    }),
  );
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 80 }), (bytes) => {
      try {
        unpackMessages(Buffer.from(bytes));
      } catch (error) {
        return (error as Error).message.endsWith('is cut off');
      }
      return true;
    }),
  );
  t.end();
});

const greeting = Buffer.from('4e42444d4147494349484156454f50540003', 'hex');

function optionReply(type: number, data: Buffer): Buffer {
  const header = Buffer.alloc(20);
  header.write('0003e889045565a9', 'hex');
  header.writeUInt32BE(7, 8);
  header.writeUInt32BE(type >>> 0, 12);
  header.writeUInt32BE(data.length, 16);
  return Buffer.concat([header, data]);
}

function exportInfo(sizeBytes: number, flags: number): Buffer {
  const data = Buffer.alloc(12);
  data.writeBigUInt64BE(BigInt(sizeBytes), 2);
  data.writeUInt16BE(flags, 10);
  return optionReply(3, data);
}

const blockInfo = optionReply(3, Buffer.from('0003000002000000100002000000', 'hex'));

t.test('handshake: asks for one export, whatever pieces the answers come in', (t) => {
  const server = Buffer.concat([
    exportInfo(2 ** 40, 0x16d),
    blockInfo,
    optionReply(1, Buffer.of()),
  ]);
  fc.assert(
    fc.property(fc.array(fc.nat({ max: greeting.length + server.length })), (cuts) => {
      const handshake = new ClientHandshake('vol');
      const all = Buffer.concat([greeting, server]);
      const ends = [...cuts.sort((a, b) => a - b), all.length];
      let from = 0;
      let sent = '';
      for (const end of ends) {
        sent += Buffer.from(handshake.feed(all.subarray(from, end))).toString('hex');
        from = Math.max(from, end);
      }
      const { result } = handshake;
      return (
        sent ===
          '00000003'.concat('49484156454f5054', '00000007', '0000000b') +
            '00000003'.concat('766f6c', '0001', '0003') &&
        result?.sizeBytes === 2 ** 40 &&
        result.flags === 0x16d &&
        result.blockBytesMin === 512
      );
    }),
  );
  t.end();
});

t.test('handshake: tells refusals, and what is no server', (t) => {
  const after = (...replies: Buffer[]): ClientHandshake => {
    const handshake = new ClientHandshake('vol');
    handshake.feed(greeting);
    handshake.feed(Buffer.concat(replies));
    return handshake;
  };
  const refusals: [number, RegExp, string][] = [
    [0x80000006, /^the daemon has no such export: gone$/, 'ENXIO'],
    [0x80000002, /^the daemon does not allow it: gone$/, 'EPERM'],
    [0x80000005, /^the daemon wants TLS: gone$/, 'EOPNOTSUPP'],
    [0x80000007, /^the daemon is ending: gone$/, 'ESHUTDOWN'],
    [0x80000003, /^refused: gone$/, 'EIO'],
  ];
  for (const [type, message, code] of refusals) {
    t.throws(() => after(optionReply(type, Buffer.from('gone'))), { message, code });
  }
  t.throws(() => after(optionReply(0x80000005, Buffer.of())), { message: 'the daemon wants TLS' });
  t.throws(() => after(optionReply(1, Buffer.of())), { message: 'the daemon told no size' });
  t.throws(() => after(Buffer.alloc(20)), { message: 'the daemon answers out of step' });
  const http = Buffer.from('HTTP/1.1 400 Bad Request');
  t.throws(() => new ClientHandshake('vol').feed(http), { message: /no NBD server/ });
  t.throws(() => new ClientHandshake('x'.repeat(4097)), { code: 'EINVAL' });
  t.equal(after(exportInfo(0, 1), optionReply(1, Buffer.of())).result?.sizeBytes, 0);
  t.end();
});

const probe = (more: Partial<Probe> = {}): Probe => ({
  sizeBytes: 2 ** 20,
  flags: 0,
  blockBytesMin: 1,
  beginning: new Uint8Array(8192),
  ...more,
});

/** 8192 bytes with others at some place. */
function beginning(at: number, bytes: string | Uint8Array): Uint8Array {
  const all = Buffer.alloc(8192);
  all.set(Buffer.from(bytes as string), at);
  return all;
}

t.test('block size: as large as the contents allow', (t) => {
  const xfs = (size: number): Uint8Array => {
    const bytes = Buffer.from(beginning(0, 'XFSB'));
    bytes.writeUInt16BE(size, 102);
    return bytes;
  };
  const ext = (log: number): Uint8Array => {
    const bytes = Buffer.from(beginning(1080, Buffer.from('53ef', 'hex')));
    bytes.writeUInt32LE(log, 1048);
    return bytes;
  };
  const cases: [string, Partial<Probe>, number][] = [
    ['nothing', {}, 4096],
    ['nothing that can be read', { beginning: new Uint8Array(0) }, 4096],
    ['a GPT of 512', { beginning: beginning(512, 'EFI PART') }, 512],
    ['a GPT of 4096', { beginning: beginning(4096, 'EFI PART') }, 4096],
    ['a boot sector', { beginning: beginning(510, Buffer.from('55aa', 'hex')) }, 512],
    ['XFS of 512', { beginning: xfs(512) }, 512],
    ['XFS of 4096', { beginning: xfs(4096) }, 4096],
    ['ext4 of 1024', { beginning: ext(0) }, 1024],
    ['ext4 of 4096', { beginning: ext(2) }, 4096],
    ['ext4 of 64 KiB', { beginning: ext(6) }, 4096],
    ['who knows what', { beginning: beginning(700, 'x') }, 512],
    ['a size of 512', { sizeBytes: 4096 * 3 + 512 }, 512],
    ['a size of 2048', { sizeBytes: 2048 * 3 }, 2048],
    ['a minimum of 4096', { blockBytesMin: 4096 }, 4096],
  ];
  for (const [what, more, wanted] of cases) t.equal(chooseBlockSize(probe(more)), wanted, what);
  const message = 'found contents in blocks of 512 bytes, wanted blocks of at least 4096 bytes';
  const small = probe({ blockBytesMin: 4096, beginning: beginning(512, 'EFI PART') });
  t.throws(() => chooseBlockSize(small), { message, code: 'EINVAL' });
  t.end();
});

t.test('block size: rejects one that the kernel, the export or its size does not have', (t) => {
  t.doesNotThrow(() => checkBlockSize(1024, probe()));
  t.throws(() => checkBlockSize(8192, probe()), { message: /wanted 512, 1024, 2048 or 4096/ });
  t.throws(() => checkBlockSize(512, probe({ blockBytesMin: 4096 })), { message: /at least 4096/ });
  t.throws(() => checkBlockSize(4096, probe({ sizeBytes: 2048 })), {
    message: /no multiple of it/,
  });
  t.end();
});

t.test('devices: which there are, and which are attached', (t) => {
  const root = rootWith(t, {
    'sys/module/nbd/version': '',
    'sys/block/nbd10/size': '0\n',
    'sys/block/nbd2/size': '16\n',
    'sys/block/nbd2/pid': '77\n',
    'sys/block/sda/size': '8\n',
    'sys/block/nbd0/size': '0\n',
  });
  const devices = new NbdDevices(root);
  t.equal(devices.supported, true);
  t.strictSame(devices.list(), [
    { index: 0, node: '/dev/nbd0', pid: null, sizeBytes: 0 },
    { index: 2, node: '/dev/nbd2', pid: 77, sizeBytes: 8192 },
    { index: 10, node: '/dev/nbd10', pid: null, sizeBytes: 0 },
  ]);
  t.equal(devices.get(3), null);
  t.equal(new NbdDevices(join(root, 'sys')).supported, false);
  t.strictSame(new NbdDevices(join(root, 'sys')).list(), []);
  t.end();
});

t.test('devices: what uses one, its partitions, or what is built on it', (t) => {
  const root = rootWith(t, {
    'sys/block/nbd1/dev': '43:32\n',
    'sys/block/nbd1/size': '16\n',
    'sys/block/nbd1/nbd1p1/dev': '43:33\n',
    'sys/block/nbd1/nbd1p2/dev': '43:34\n',
    'sys/block/nbd1/nbd1p2/holders/dm-0': '',
    'sys/block/nbd10/dev': '43:320\n',
    'sys/block/nbd10/size': '16\n',
    'proc/self/mountinfo':
      '22 1 8:1 / / rw - ext4 /dev/sda1 rw\n' +
      '30 22 43:33 / /mnt/a\\040b rw - ext4 /dev/nbd1p1 rw\n',
    'proc/swaps': 'Filename Type Size Used Priority\n/dev/nbd1p2\tpartition 1 0 -2\n',
  });
  symlinkSync('nowhere', join(root, 'sys/block/nbd1/queue'));
  const devices = new NbdDevices(root);
  const users = (index: number): string[] => {
    const device = devices.get(index);
    return device === null ? ['none'] : devices.users(device);
  };
  t.strictSame(users(1), ['mounted at "/mnt/a b"', 'used for swapping', 'used by dm-0']);
  t.strictSame(users(10), []);
  t.end();
});

t.test('devices: rejects what is no whole nbd device', (t) => {
  t.equal(indexOf('/dev/nbd15'), 15);
  for (const word of ['/dev/nbd', '/dev/nbd0p1', '/dev/sda', '/dev/nbd-1', '/dev/nbd99999']) {
    t.throws(() => indexOf(word), { message: new RegExp(`^found "${word}", wanted`) });
  }
  t.end();
});
