/**
 * The nbd driver's netlink, for what nbd-client has no words for: how long requests wait when all
 * connections of a device are dead, new connections instead of the dead ones, and to hear when one
 * has died. Node has no such sockets, so koffi makes them.
 */

import { readSync, writeSync } from 'node:fs';
import { EAGAIN, EINTR, EIO, ENODEV, errnoOf } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import type { ListenAddress } from '../engine/engine.js';
import { familyOf, packAddress } from '../engine/uring/socket-address.js';
import { check, System } from '../engine/uring/system.js';
import { ClientHandshake, type ExportFacts } from './handshake.js';
import {
  controller,
  driver,
  find,
  type Message,
  nested,
  packRequest,
  text,
  u32,
  u64,
  unpackAttributes,
  unpackMessages,
} from './netlink-message.js';

const AF_NETLINK = 16;
const NETLINK_GENERIC = 16;
const SOCK_STREAM = 1;
const SOCK_RAW = 3;
const SOCK_NONBLOCK = 0o4000;
const SOCK_CLOEXEC = 0o2000000;
const SOL_NETLINK = 270;
const NETLINK_ADD_MEMBERSHIP = 1;
const IPPROTO_TCP = 6;
const TCP_NODELAY = 1;
/** Larger than any message that the two families send. */
const datagramBytes = 16_384;

/** A connection whose handshake is over; whoever has it closes it. */
export interface ReadyConnection {
  readonly fd: number;
  readonly facts: ExportFacts;
}

export class NbdNetlink {
  readonly #system: System;
  readonly #requests: number;
  readonly #events: number;
  readonly #buffer = Buffer.alloc(datagramBytes);
  #family = 0;
  #sequence = 0;

  /** Throws MapperError, or an Error without koffi. */
  static async open(): Promise<NbdNetlink> {
    const netlink = new NbdNetlink(await System.load());
    try {
      netlink.#join();
    } catch (error) {
      netlink.close();
      throw error;
    }
    return netlink;
  }

  private constructor(system: System) {
    this.#system = system;
    const type = SOCK_RAW | SOCK_CLOEXEC;
    this.#requests = check(system.socket(AF_NETLINK, type, NETLINK_GENERIC), 'netlink socket');
    const other = system.socket(AF_NETLINK, type | SOCK_NONBLOCK, NETLINK_GENERIC);
    this.#events = check(other, 'netlink socket');
  }

  close(): void {
    this.#system.close(this.#requests);
    this.#system.close(this.#events);
  }

  /** How long requests wait for a connection when all are dead, before they fail. */
  setPatience(index: number, seconds: number): void {
    this.#reconfigure(index, [u64(driver.deadConnectionTimeout, seconds)]);
  }

  /** Gives the device a connection instead of a dead one; if none is dead, nothing is done. */
  replaceConnection(index: number, fd: number): void {
    const item = nested(driver.socketItem, [u32(driver.socketFd, fd)]);
    this.#reconfigure(index, [nested(driver.sockets, [item])]);
  }

  /** Connections of the device that have died since the last call; null: nobody can tell. */
  newlyDead(index: number): number | null {
    let dead = 0;
    for (;;) {
      const bytes = this.#receive(this.#events);
      if (bytes === null) return dead;
      if (bytes === 'lost') return null;
      for (const message of unpackMessages(bytes)) {
        const found = find(message.attributes, driver.index)?.readUInt32LE(0);
        if (message.command === driver.linkDead && found === index) dead++;
      }
    }
  }

  /** Blocks until the daemon has agreed. Throws MapperError. */
  connect(address: ListenAddress, exportName: string): ReadyConnection {
    const system = this.#system;
    const packed = packAddress(address);
    const fd = check(system.socket(familyOf(packed), SOCK_STREAM | SOCK_CLOEXEC), 'socket');
    try {
      check(system.connect(fd, packed), 'connect');
      if (address.kind === 'tcp') system.setSocketOption(fd, IPPROTO_TCP, TCP_NODELAY, 1);
      const handshake = new ClientHandshake(exportName);
      while (handshake.result === null) {
        const count = readSync(fd, this.#buffer, 0, datagramBytes, null);
        if (count === 0) throw handshake.ended();
        writeAll(fd, handshake.feed(this.#buffer.subarray(0, count)));
      }
      return { fd, facts: handshake.result };
    } catch (error) {
      system.close(fd);
      throw error;
    }
  }

  closeConnection({ fd }: ReadyConnection): void {
    this.#system.close(fd);
  }

  /** Learns the driver's number, and hears its events from now on. */
  #join(): void {
    // Without an address of its own a socket counts as the kernel's, which does not hear itself.
    check(
      this.#system.bind(this.#events, Uint8Array.of(AF_NETLINK, ...new Array(11).fill(0))),
      'bind',
    );
    const name = text(controller.familyName, driver.name);
    const [answer] = this.#ask(controller.family, controller.getFamily, [name]);
    const attributes = answer?.attributes ?? [];
    const family = find(attributes, controller.familyId)?.readUInt16LE(0);
    const list = find(attributes, controller.groups) ?? Buffer.alloc(0);
    for (const { value } of unpackAttributes(list)) {
      const group = unpackAttributes(value);
      if (find(group, controller.groupName)?.toString() !== `${driver.group}\0`) continue;
      const id = find(group, controller.groupId)?.readUInt32LE(0) ?? 0;
      const joined = this.#system.setSocketOption(
        this.#events,
        SOL_NETLINK,
        NETLINK_ADD_MEMBERSHIP,
        id,
      );
      check(joined, "join the nbd driver's group");
      this.#family = family ?? 0;
    }
    if (this.#family === 0) throw new MapperError(ENODEV, 'the nbd driver has no netlink');
  }

  #reconfigure(index: number, attributes: readonly Uint8Array[]): void {
    this.#ask(this.#family, driver.reconfigure, [u32(driver.index, index), ...attributes]);
  }

  /** What is answered before the acknowledgement. Throws MapperError. */
  #ask(family: number, command: number, attributes: readonly Uint8Array[]): Message[] {
    writeAll(this.#requests, packRequest(family, command, ++this.#sequence, attributes));
    const answers: Message[] = [];
    for (;;) {
      const bytes = this.#receive(this.#requests);
      if (!(bytes instanceof Buffer)) throw new MapperError(EIO, 'nbd driver does not answer');
      for (const message of unpackMessages(bytes)) {
        if (message.error === null) answers.push(message);
        else if (message.error === 0) return answers;
        else check(message.error, 'nbd driver');
      }
    }
  }

  /** One datagram; null: there is none now; 'lost': some were dropped. */
  #receive(fd: number): Buffer | null | 'lost' {
    for (;;) {
      try {
        const count = readSync(fd, this.#buffer, 0, datagramBytes, null);
        return Buffer.from(this.#buffer.subarray(0, count));
      } catch (error) {
        const errno = errnoOf((error as NodeJS.ErrnoException).code);
        if (errno === EAGAIN) return null;
        if (errno !== EINTR) return 'lost';
      }
    }
  }
}

function writeAll(fd: number, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
}
