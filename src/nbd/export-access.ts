/**
 * Who may have which export: the addresses that the daemon serves at all, and what the owners of
 * the devices have said. Both must allow a client. What changes counts for those who come from then
 * on: a client that has an export keeps it as it was when it came.
 */

import {
  type AddressBlock,
  isInBlock,
  parseAddress,
  parseAddressBlock,
} from '../base/address-block.js';
import type { Device } from '../device/device.js';
import { type ExportPolicy, openPolicy } from './export-policy.js';
import type { Peer } from './peer.js';

/** Addresses that are let in; an empty list lets in all. */
class AllowList {
  readonly #blocks: readonly AddressBlock[];

  /** Throws MapperError for what is no address. */
  constructor(texts: readonly string[]) {
    this.#blocks = texts.map(parseAddressBlock);
  }

  has({ host }: Peer): boolean {
    if (this.#blocks.length === 0 || host === null) return true;
    const address = parseAddress(host);
    return address !== null && this.#blocks.some((block) => isInBlock(address, block));
  }
}

interface Access {
  readonly policy: ExportPolicy;
  readonly allow: AllowList;
}

const everybody: Access = { policy: openPolicy, allow: new AllowList([]) };

export class ExportAccess {
  readonly #allow: AllowList;
  /** By device, so that a policy follows a rename and goes with the device. */
  readonly #access = new WeakMap<Device, Access>();
  readonly #connections = new WeakMap<Device, number>();

  /** `allow`: the addresses that the daemon serves. Throws MapperError. */
  constructor(allow: readonly string[]) {
    this.#allow = new AllowList(allow);
  }

  policyOf(device: Device): ExportPolicy {
    return this.#of(device).policy;
  }

  /** Throws MapperError; then nothing has changed. */
  setPolicy(device: Device, policy: ExportPolicy): void {
    this.#access.set(device, { policy, allow: new AllowList(policy.allow) });
  }

  /** Whether the daemon has anything for the client. */
  serves(peer: Peer): boolean {
    return this.#allow.has(peer);
  }

  allows(device: Device, peer: Peer): boolean {
    return this.serves(peer) && this.#of(device).allow.has(peer);
  }

  /** Why there is no room for one more client; null: there is. */
  full(device: Device): string | null {
    const most = this.policyOf(device).connections;
    const found = this.#connectionsOf(device);
    if (most === null || found < most) return null;
    return `found ${found} connections, wanted at most ${most}`;
  }

  opened(device: Device): void {
    this.#count(device, 1);
  }

  closed(device: Device): void {
    this.#count(device, -1);
  }

  #count(device: Device, more: number): void {
    const count = this.#connectionsOf(device) + more;
    this.#connections.set(device, count);
    device.counters.setConnections(count);
  }

  #connectionsOf(device: Device): number {
    return this.#connections.get(device) ?? 0;
  }

  #of(device: Device): Access {
    return this.#access.get(device) ?? everybody;
  }
}
