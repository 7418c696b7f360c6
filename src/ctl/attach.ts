/**
 * Exports as block devices of this machine: nbd-client attaches them to the kernel's nbd driver. What
 * it needs is looked for first, so that each thing that is missing is one clear line.
 */

import { spawn } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  EBUSY,
  EINVAL,
  EIO,
  ENODEV,
  ENOENT,
  ENXIO,
  EOPNOTSUPP,
  EPERM,
  ETIME,
} from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import {
  attachConnections,
  attachMilliseconds,
  attachPollMilliseconds,
  detachMilliseconds,
  persistTimeoutSeconds,
  persistWaitSeconds,
  persistWaitSecondsMax,
} from '../base/limits.js';
import { parseBytes, parseDuration } from '../base/sizes.js';
import { checkBlockSize, chooseBlockSize } from '../kernel/block-size.js';
import { indexOf, isNode, type NbdDevice, NbdDevices } from '../kernel/nbd-devices.js';
import type { NbdNetlink } from '../kernel/nbd-netlink.js';
import { checkDevice, findWay } from './attach-way.js';
import { type Attachment, Attachments } from './attachment.js';
import type { Command, Invocation, OptionValues } from './command.js';
import { becomeKeeper, keepAttached } from './keep-attached.js';
import { clientArguments, findClient, runClient } from './nbd-client.js';

/** What of the machine is used; tests have another one. */
export interface Machine {
  readonly devices: NbdDevices;
  readonly attachments: Attachments;
  readonly isRoot: boolean;
  /** Where programs are looked for. */
  readonly searchPath: string;
}

interface Wanted {
  readonly connections: number;
  readonly timeoutSeconds: number | null;
  readonly blockBytes: number | null;
  readonly readOnly: boolean;
  /** Null: requests fail when the daemon has gone. */
  readonly waitSeconds: number | null;
}

async function attach(machine: Machine, call: Invocation): Promise<void> {
  const [name, node] = call.words as [string, string | undefined];
  const wanted = wantedIn(call.options);
  const client = ready(machine);
  const device = node === undefined ? freeDevice(machine) : thatDevice(machine, node);
  await checkDevice(call.client, name);
  const { address, probe } = await findWay(call.client, name);
  if (wanted.blockBytes !== null) checkBlockSize(wanted.blockBytes, probe);
  const blockBytes = wanted.blockBytes ?? chooseBlockSize(probe);
  const netlink = wanted.waitSeconds === null ? null : await openNetlink();
  try {
    const request = { ...wanted, address, exportName: name, node: device.node, blockBytes };
    await runClient(client, clientArguments(request));
    const attached = await untilAttached(machine, device);
    const { pid, sizeBytes } = attached;
    const { connections, waitSeconds } = wanted;
    const { index } = device;
    machine.attachments.write({ index, name, address, connections, sizeBytes, pid });
    if (waitSeconds !== null) {
      netlink?.setPatience(index, waitSeconds);
      await startKeeper(machine, device);
    }
  } finally {
    netlink?.close();
  }
  const { connections, timeoutSeconds, waitSeconds } = wanted;
  const result = { node: device.node, name, address, blockBytes, connections };
  call.print({ ...result, timeoutSeconds, waitSeconds }, `${device.node}\n`);
}

function wantedIn(options: OptionValues): Wanted {
  const connections = Number(options.text('connections') ?? 1);
  if (!Number.isInteger(connections) || connections < 1 || connections > attachConnections) {
    const found = options.text('connections');
    throw invalid(`--connections: found "${found}", wanted 1 to ${attachConnections}`);
  }
  const persist = options.flag('persist');
  if (options.text('wait') !== undefined && !persist) {
    throw invalid('found --wait without --persist: there is nothing to wait for');
  }
  const usual = persist ? persistTimeoutSeconds : null;
  const blockSize = options.text('block-size');
  return {
    connections,
    timeoutSeconds: secondsIn(options, 'timeout') ?? usual,
    blockBytes: blockSize === undefined ? null : parseBytes(blockSize),
    readOnly: options.flag('read-only'),
    waitSeconds: persist ? (secondsIn(options, 'wait') ?? persistWaitSeconds) : null,
  };
}

/** The kernel counts whole seconds, from 1 on. */
function secondsIn(options: OptionValues, name: string): number | null {
  const text = options.text(name);
  if (text === undefined) return null;
  const seconds = parseDuration(text) / 1000;
  if (Number.isInteger(seconds) && seconds >= 1 && seconds <= persistWaitSecondsMax) return seconds;
  throw invalid(`--${name}: found "${text}", wanted whole seconds from 1 on`);
}

/** Where nbd-client is. Throws MapperError with what is missing. */
function ready({ isRoot, devices, searchPath }: Machine): string {
  if (!isRoot) throw new MapperError(EPERM, 'wanted root: nobody else may change block devices');
  const client = findClient(searchPath);
  if (devices.supported) return client;
  throw new MapperError(ENODEV, "the kernel's nbd module is not loaded: modprobe nbd");
}

function freeDevice({ devices }: Machine): NbdDevice {
  const all = devices.list();
  const free = all.find((device) => device.pid === null);
  if (free !== undefined) return free;
  const advice = 'modprobe -r nbd && modprobe nbd nbds_max=64 makes more';
  throw new MapperError(EBUSY, `all ${all.length} nbd devices are attached (${advice})`);
}

function thatDevice({ devices, attachments }: Machine, node: string): NbdDevice {
  const index = indexOf(node);
  const device = devices.get(index);
  if (device === null) {
    const count = devices.list().length;
    throw new MapperError(ENOENT, `there is no "${node}", the kernel has ${count} nbd devices`);
  }
  if (device.pid === null) return device;
  const known = attachments.read(index);
  const to = known === null ? `by process ${device.pid}` : `to "${known.name}"`;
  throw new MapperError(EBUSY, `"${node}" is attached already, ${to}`);
}

async function openNetlink(): Promise<NbdNetlink> {
  try {
    const { NbdNetlink } = await import('../kernel/nbd-netlink.js');
    return await NbdNetlink.open();
  } catch (error) {
    throw new MapperError(EOPNOTSUPP, `--persist: ${messageOf(error)}`);
  }
}

/** nbd-client may be done before the kernel is. */
async function untilAttached(
  { devices }: Machine,
  { index, node }: NbdDevice,
): Promise<{ pid: number; sizeBytes: number }> {
  for (const end = Date.now() + attachMilliseconds; Date.now() < end; ) {
    const now = devices.get(index);
    if (now !== null && now.pid !== null && now.sizeBytes > 0) {
      return { pid: now.pid, sizeBytes: now.sizeBytes };
    }
    await sleep(attachPollMilliseconds);
  }
  throw new MapperError(ETIME, `"${node}" has no size yet: the kernel's log may say why`);
}

/** Starts the process that stays, and waits until it does its work. */
async function startKeeper({ attachments }: Machine, { index, node }: NbdDevice): Promise<void> {
  const log = openSync(attachments.logPath(index), 'a', 0o600);
  const program = fileURLToPath(new URL('../mapperctl.js', import.meta.url));
  const child = spawn(process.execPath, [program, 'keep-attached', node], {
    detached: true,
    stdio: ['ignore', log, log],
    cwd: '/',
  });
  closeSync(log);
  child.unref();
  for (const end = Date.now() + attachMilliseconds; attachments.keeper(index) === null; ) {
    if (child.exitCode !== null || child.signalCode !== null || Date.now() > end) {
      const text = `"${node}" is attached, but nobody keeps it so`;
      throw new MapperError(EIO, `${text}: "${attachments.logPath(index)}" says why`);
    }
    await sleep(attachPollMilliseconds);
  }
}

async function keep(machine: Machine, call: Invocation): Promise<void> {
  const index = indexOf(call.words[0] as string);
  if (!machine.isRoot) throw new MapperError(EPERM, 'wanted root');
  const attachment = machine.attachments.read(index);
  if (attachment === null) {
    throw new MapperError(ENXIO, `"${call.words[0]}" was not attached by mapperctl attach`);
  }
  const netlink = await openNetlink();
  becomeKeeper(index, machine.attachments);
  await keepAttached(attachment, machine.attachments, netlink, (line) => {
    process.stderr.write(`${new Date().toISOString()} ${line}\n`);
  });
  machine.attachments.forget(index);
}

async function detach(machine: Machine, call: Invocation): Promise<void> {
  const { devices, attachments } = machine;
  const client = ready(machine);
  const index = attachedIndex(machine, call.words[0] as string);
  const node = `/dev/nbd${index}`;
  const device = devices.get(index);
  if (device === null || device.pid === null) {
    throw new MapperError(ENXIO, `"${node}" is not attached`);
  }
  const users = devices.users(device);
  if (users.length > 0 && !call.options.flag('force')) {
    const text = `"${node}" is ${users.join(', ')}`;
    throw new MapperError(EBUSY, `${text} (--force detaches it all the same)`);
  }
  const keeper = attachments.keeper(index);
  if (keeper !== null) process.kill(keeper);
  await runClient(client, ['-d', node]);
  // Who uses it by force is not waited for: the kernel lets it go when that has ended.
  const end = Date.now() + detachMilliseconds;
  while (users.length === 0 && devices.get(index)?.pid === device.pid) {
    if (Date.now() > end) {
      const text = `"${node}" is disconnected, but somebody has it open`;
      throw new MapperError(EBUSY, `${text}: the kernel lets it go when that ends`);
    }
    await sleep(attachPollMilliseconds);
  }
  attachments.forget(index);
  call.print({ node }, '');
}

/** Of a node, or of the one device that an export of that name is attached to. */
function attachedIndex({ attachments }: Machine, word: string): number {
  if (isNode(word)) return indexOf(word);
  const found = attachments.list().filter(({ name }) => name === word);
  const [one, another] = found;
  if (one === undefined) {
    throw new MapperError(ENXIO, 'nothing is attached to an export of that name');
  }
  if (another === undefined) return one.index;
  const nodes = found.map(({ index }: Attachment) => `/dev/nbd${index}`).join(', ');
  throw invalid(`attached several times, wanted one of ${nodes}`);
}

function invalid(text: string): MapperError {
  return new MapperError(EINVAL, text);
}

/** Errors say what was to be done with what. */
function told(run: (machine: Machine, call: Invocation) => Promise<void>, machine: Machine) {
  return async (call: Invocation): Promise<void> => {
    try {
      await run(machine, call);
    } catch (error) {
      const what = `${run.name === 'keep' ? 'keep-attached' : run.name} ${call.words[0]}`;
      throw error instanceof MapperError ? error.prefixed(what) : error;
    }
  };
}

export function attachCommandsOn(machine: Machine): readonly Command[] {
  return [
    {
      name: 'attach',
      usage:
        'NAME [/dev/nbdX] [--connections N] [--block-size BYTES] [--timeout S] [--read-only] ' +
        '[--persist [--wait S]]',
      summary:
        "make an export a block device of this machine's and print it; with --persist it outlives " +
        'the daemon, and goes on when that is back',
      minWords: 1,
      maxWords: 2,
      options: {
        connections: { type: 'string', short: 'C' },
        'block-size': { type: 'string', short: 'b' },
        timeout: { type: 'string', short: 't' },
        'read-only': { type: 'boolean', short: 'r' },
        persist: { type: 'boolean', short: 'p' },
        wait: { type: 'string' },
      },
      run: told(attach, machine),
    },
    {
      name: 'detach',
      usage: '/dev/nbdX | NAME [--force]',
      summary: 'end that, if the device is not mounted; with --force even then',
      minWords: 1,
      maxWords: 1,
      options: { force: { type: 'boolean', short: 'f' } },
      offline: () => true,
      run: told(detach, machine),
    },
    {
      name: 'keep-attached',
      usage: '/dev/nbdX',
      summary:
        'replace dead connections until it is detached (attach --persist starts this itself)',
      minWords: 1,
      maxWords: 1,
      offline: () => true,
      run: told(keep, machine),
    },
  ];
}

const devices = new NbdDevices();
const { PATH = '' } = process.env;

export const attachCommands: readonly Command[] = attachCommandsOn({
  devices,
  attachments: new Attachments('/run/mapperctl', devices),
  isRoot: process.getuid?.() === 0,
  searchPath: PATH,
});
