/**
 * attach and detach on a machine whose kernel is a folder: a script stands for nbd-client, writes
 * down how it was called and makes the files that the kernel would. The daemon is a real one.
 */

import { chmodSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { attachCommandsOn, type Machine } from '../../src/ctl/attach.js';
import { type Attachment, Attachments } from '../../src/ctl/attachment.js';
import { ControlClient } from '../../src/ctl/client.js';
import { parseCommand } from '../../src/ctl/command.js';
import { keepAttached, type Netlink } from '../../src/ctl/keep-attached.js';
import { NbdDevices } from '../../src/kernel/nbd-devices.js';
import { Daemon, linear, MiB, Scratch } from '../interop/harness.js';

/** What nbd-client is to this machine. \$ROOT is put in. */
const program = `#!/bin/sh
printf '%s\\n' "$*" >>ROOT/calls
if [ -e ROOT/complaint ]; then cat ROOT/complaint; exit 1; fi
for word; do
  case $word in /dev/nbd*) device=ROOT/sys/block/\${word#/dev/} ;; esac
done
if [ "$1" = -d ]; then rm $device/pid; echo 0 >$device/size; exit 0; fi
echo 4242 >$device/pid
echo 2048 >$device/size
`;

class FakeMachine implements Machine {
  readonly root: string;
  readonly devices: NbdDevices;
  readonly attachments: Attachments;
  isRoot = true;
  searchPath: string;

  constructor(t: Test, devices: number) {
    this.root = new Scratch(t).path;
    this.devices = new NbdDevices(this.root);
    this.attachments = new Attachments(join(this.root, 'run'), this.devices);
    this.searchPath = `/nowhere:${join(this.root, 'bin')}`;
    this.write('bin/nbd-client', program.replaceAll('ROOT', this.root));
    chmodSync(join(this.root, 'bin/nbd-client'), 0o755);
    this.write('sys/module/nbd/version', '');
    for (let index = 0; index < devices; index++) this.write(`sys/block/nbd${index}/size`, '0\n');
  }

  write(path: string, content: string): void {
    mkdirSync(join(this.root, path, '..'), { recursive: true });
    writeFileSync(join(this.root, path), content);
  }

  /** How nbd-client was called, since the last time that this was asked. */
  calls(): string[] {
    const path = join(this.root, 'calls');
    if (!existsSync(path)) return [];
    const lines = readFileSync(path, 'utf8').trimEnd().split('\n');
    rmSync(path);
    return lines;
  }

  /** What mapperctl prints, or what is wrong. */
  async run(daemon: Daemon | null, ...args: string[]): Promise<string> {
    let output = '';
    try {
      const { command, words, options } = parseCommand(args, attachCommandsOn(this));
      if (daemon === null && command?.offline?.(words) !== true) throw new Error('no daemon');
      const client = daemon === null ? null : await ControlClient.connect([daemon.controlSocket]);
      await command
        ?.run({
          words,
          options,
          client: client as ControlClient,
          print: (result, text) => {
            output += options.flag('json') ? JSON.stringify(result) : text;
          },
          readInput: async () => '',
          readInputBytes: async () => Buffer.of(),
          writeOutput: () => {},
        })
        .finally(() => client?.close());
    } catch (error) {
      return `! ${(error as Error).message}`;
    }
    return output;
  }
}

t.test('attach and detach', async (t) => {
  const files = new Scratch(t);
  const daemon = await Daemon.start({
    engine: 'node',
    devices: {
      vol: linear(files.sparse('vol.img', MiB), MiB),
      other: linear(files.sparse('other.img', MiB), MiB),
      odd: '0 3 zero',
    },
  });
  t.teardown(() => daemon.stop());
  const socket = daemon.socket;

  await t.test('take the first free device and the way without a network', async (t) => {
    const machine = new FakeMachine(t, 3);
    machine.write('sys/block/nbd0/pid', '1\n');
    t.equal(await machine.run(daemon, 'attach', 'vol'), '/dev/nbd1\n');
    t.strictSame(machine.calls(), [`-unix ${socket} /dev/nbd1 -N vol -b 4096 -C 1`]);
    const { name, connections, sizeBytes, pid } = machine.attachments.read(1) as Attachment;
    t.strictSame([name, connections, sizeBytes, pid], ['vol', 1, MiB, 4242]);

    const wanted = ['-C', '4', '-t', '5s', '-b', '512', '-r', '--json'];
    t.strictSame(JSON.parse(await machine.run(daemon, 'attach', 'other', '/dev/nbd2', ...wanted)), {
      node: '/dev/nbd2',
      name: 'other',
      address: { kind: 'unix', path: socket },
      blockBytes: 512,
      connections: 4,
      timeoutSeconds: 5,
      waitSeconds: null,
    });
    t.strictSame(machine.calls(), [`-unix ${socket} /dev/nbd2 -N other -b 512 -C 4 -t 5 -R`]);

    t.equal(await machine.run(null, 'detach', 'vol'), '');
    t.strictSame(machine.calls(), ['-d /dev/nbd1']);
    t.equal(machine.attachments.read(1), null);
    t.equal(await machine.run(null, 'detach', '/dev/nbd2', '--json'), '{"node":"/dev/nbd2"}');
    t.strictSame(machine.calls(), ['-d /dev/nbd2']);
  });

  await t.test('take the blocks that the size and the contents want', async (t) => {
    const machine = new FakeMachine(t, 2);
    t.equal(await machine.run(daemon, 'attach', 'odd'), '/dev/nbd0\n');
    const image = files.sparse('made.img', MiB);
    const content = Buffer.alloc(MiB);
    content.write('EFI PART', 512);
    writeFileSync(image, content);
    await daemon.control('create', 'made', '--table', linear(image, MiB));
    t.equal(await machine.run(daemon, 'attach', 'made'), '/dev/nbd1\n');
    const blocks = machine.calls().map((call) => / -b ([0-9]+) /.exec(call)?.[1]);
    t.strictSame(blocks, ['512', '512']);
    t.match(
      await machine.run(daemon, 'attach', 'odd', '/dev/nbd0'),
      /^! attach odd: "\/dev\/nbd0"/,
    );
  });

  await t.test('say what is missing', async (t) => {
    const machine = new FakeMachine(t, 2);
    const says = async (words: string, text: string): Promise<void> => {
      t.equal(await machine.run(daemon, ...words.split(' ')), `! ${text}`, words);
      t.strictSame(machine.calls(), []);
    };
    await says(
      'attach nowhere',
      'attach nowhere: the daemon has no such device (mapperctl ls lists them)',
    );
    await says(
      'attach vol /dev/sda',
      'attach vol: found "/dev/sda", wanted a whole device, as "/dev/nbd0"',
    );
    await says(
      'attach vol /dev/nbd2',
      'attach vol: there is no "/dev/nbd2", the kernel has 2 nbd devices',
    );
    await says('attach vol -C 0', 'attach vol: --connections: found "0", wanted 1 to 64');
    await says('attach vol -C 1.5', 'attach vol: --connections: found "1.5", wanted 1 to 64');
    await says(
      'attach vol -t 500ms',
      'attach vol: --timeout: found "500ms", wanted whole seconds from 1 on',
    );
    await says(
      'attach vol --wait 5',
      'attach vol: found --wait without --persist: there is nothing to wait for',
    );
    await says(
      'attach vol -b 8k',
      'attach vol: --block-size: found 8192, wanted 512, 1024, 2048 or 4096',
    );
    await says(
      'attach odd -b 4k',
      'attach odd: --block-size: found 4096: the export has 1536 bytes, which is no multiple of it',
    );
    await says('detach vol', 'detach vol: nothing is attached to an export of that name');
    await says('detach /dev/nbd0', 'detach /dev/nbd0: "/dev/nbd0" is not attached');
    await daemon.control('create', 'empty', '--notable');
    await says('attach empty', 'attach empty: device has no table, so no size');
    await daemon.control('suspend', 'other');
    await says('attach other', 'attach other: device is suspended: mapperctl resume other');
    await daemon.control('resume', 'other');

    machine.write('sys/block/nbd0/pid', '7\n');
    machine.write('sys/block/nbd1/pid', '8\n');
    await says('attach vol /dev/nbd0', 'attach vol: "/dev/nbd0" is attached already, by process 7');
    await says(
      'attach vol',
      'attach vol: all 2 nbd devices are attached ' +
        '(modprobe -r nbd && modprobe nbd nbds_max=64 makes more)',
    );
    rmSync(join(machine.root, 'sys/module/nbd'), { recursive: true });
    await says('attach vol', "attach vol: the kernel's nbd module is not loaded: modprobe nbd");
    machine.searchPath = '/nowhere';
    if (existsSync('/usr/sbin/nbd-client')) t.comment('nbd-client is installed here');
    else {
      await says(
        'attach vol',
        'attach vol: nbd-client is not installed (Debian: apt-get install nbd-client)',
      );
    }
    machine.isRoot = false;
    await says('attach vol', 'attach vol: wanted root: nobody else may change block devices');
    await says('detach vol', 'detach vol: wanted root: nobody else may change block devices');
  });

  await t.test('pass on what nbd-client and the kernel complain of', async (t) => {
    const machine = new FakeMachine(t, 1);
    const complaint = 'Negotiation: ..size = 1MB\nError: Failed to setup device, check dmesg\n';
    machine.write('complaint', `${complaint}\nExiting.\n`);
    const failed = '! attach vol: nbd-client: Failed to setup device, check dmesg';
    t.equal(await machine.run(daemon, 'attach', 'vol'), failed);
    machine.write('complaint', '\n');
    t.equal(
      await machine.run(daemon, 'attach', 'vol'),
      '! attach vol: nbd-client: no reason given',
    );
    t.equal(machine.attachments.read(0), null);
  });

  await t.test('leave a device alone that is used, but by force', async (t) => {
    const machine = new FakeMachine(t, 2);
    await machine.run(daemon, 'attach', 'vol');
    machine.write('sys/block/nbd0/dev', '43:0\n');
    machine.write('proc/self/mountinfo', '30 22 43:0 / /mnt rw - ext4 /dev/nbd0 rw\n');
    machine.calls();
    const text = '"/dev/nbd0" is mounted at "/mnt" (--force detaches it all the same)';
    t.equal(await machine.run(null, 'detach', 'vol'), `! detach vol: ${text}`);
    t.strictSame(machine.calls(), []);
    t.equal(await machine.run(null, 'detach', 'vol', '--force'), '');
    t.strictSame(machine.calls(), ['-d /dev/nbd0']);
  });

  await t.test('want the node where a name is not enough', async (t) => {
    const machine = new FakeMachine(t, 2);
    await machine.run(daemon, 'attach', 'vol');
    await machine.run(daemon, 'attach', 'vol');
    const text = 'attached several times, wanted one of /dev/nbd0, /dev/nbd1';
    t.equal(await machine.run(null, 'detach', 'vol'), `! detach vol: ${text}`);
    // Somebody else has detached and attached it: it is not known any more.
    machine.write('sys/block/nbd0/pid', '5\n');
    t.equal(await machine.run(null, 'detach', 'vol'), '');
    t.equal(machine.attachments.read(0), null);
    t.strictSame(machine.calls().slice(2), ['-d /dev/nbd1']);
  });

  await t.test('find a daemon over TCP, and none that listens nowhere', async (t) => {
    const machine = new FakeMachine(t, 2);
    rmSync(socket);
    t.equal(await machine.run(daemon, 'attach', 'vol'), '/dev/nbd0\n');
    t.strictSame(machine.calls(), [`127.0.0.1 ${daemon.port} /dev/nbd0 -N vol -b 4096 -C 1`]);
  });
});

/** A driver that has so many dead connections; what it is given is written down. */
class FakeNetlink implements Netlink {
  dead: (number | null)[] = [];
  /** What happens at each attempt to connect: a size, or an error. */
  readonly answers: (number | string)[];
  readonly done: string[] = [];
  readonly #end: () => void;

  constructor(answers: (number | string)[], end: () => void) {
    this.answers = answers;
    this.#end = end;
  }

  newlyDead(): number | null {
    if (this.answers.length === 0) this.#end();
    const dead = this.dead.shift();
    return dead === undefined ? 0 : dead;
  }

  connect(): ReturnType<Netlink['connect']> {
    const answer = this.answers.shift() ?? MiB;
    if (typeof answer === 'string') throw new Error(answer);
    this.done.push('connect');
    return { fd: 9, facts: { sizeBytes: answer, flags: 0, blockBytesMin: 1 } };
  }

  replaceConnection(_index: number, fd: number): void {
    this.done.push(`replace ${fd}`);
  }

  closeConnection({ fd }: ReturnType<Netlink['connect']>): void {
    this.done.push(`close ${fd}`);
  }
}

const atOnce = async (): Promise<void> => {};

t.test('keep-attached replaces what has died, until the device is detached', async (t) => {
  const machine = new FakeMachine(t, 1);
  machine.write('sys/block/nbd0/pid', '4242\n');
  const attachment: Attachment = {
    index: 0,
    name: 'vol',
    address: { kind: 'unix', path: '/run/nbd.sock' },
    connections: 2,
    sizeBytes: MiB,
    pid: 4242,
  };
  machine.attachments.write(attachment);
  const end = (): void => rmSync(join(machine.root, 'sys/block/nbd0/pid'), { force: true });
  // Both are offered at the start; one dies, and comes back at the fourth attempt.
  const answers = [MiB, MiB, 'refused', 'refused', 2 * MiB, MiB];
  const netlink = new FakeNetlink(answers, end);
  netlink.dead = [0, 1, 0, 0, 0];
  const lines: string[] = [];
  await keepAttached(attachment, machine.attachments, netlink, (line) => lines.push(line), atOnce);
  const replaced = ['connect', 'replace 9', 'close 9'];
  t.strictSame(netlink.done, [...replaced, ...replaced, 'connect', 'close 9', ...replaced]);
  t.strictSame(lines, [
    'connection lost, and not back yet: refused',
    `connection lost, and not back yet: found an export of ${2 * MiB} bytes, wanted ${MiB}`,
    'connected again',
    'detached',
  ]);
});

t.test('keep-attached offers all when events were lost', async (t) => {
  const machine = new FakeMachine(t, 1);
  machine.write('sys/block/nbd0/pid', '1\n');
  const attachment: Attachment = {
    index: 0,
    name: 'vol',
    address: { kind: 'tcp', host: '127.0.0.1', port: 10809 },
    connections: 3,
    sizeBytes: MiB,
    pid: 1,
  };
  machine.attachments.write(attachment);
  const end = (): void => rmSync(join(machine.root, 'sys/block/nbd0/pid'), { force: true });
  const netlink = new FakeNetlink([MiB, MiB, MiB, MiB, MiB, MiB], end);
  netlink.dead = [0, null];
  await keepAttached(attachment, machine.attachments, netlink, () => {}, atOnce);
  t.equal(netlink.done.filter((one) => one === 'replace 9').length, 6);
});
