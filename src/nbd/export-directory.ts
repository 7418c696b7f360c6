/**
 * The exports as one client may see them: every device that has a table, less what it cannot have.
 * Those that are full are left out of the list too: clients that go through a list (nbdinfo,
 * qemu-nbd) ask for each of them, and give all up when one is refused.
 */

import { payloadBytes } from '../base/limits.js';
import type { ChangeMap } from '../device/change-map.js';
import type { Device } from '../device/device.js';
import type { ErrorLog } from '../device/error-log.js';
import { REP_ERR_POLICY } from './constants.js';
import type { ExportDirectory, ExportEntry, ExportInfo } from './export.js';
import type { ExportAccess } from './export-access.js';
import { OptionRefusal, quoted } from './option.js';
import type { Peer } from './peer.js';

/** Where the exports come from. */
export interface Devices {
  find(name: string): Device | undefined;
  all(): Iterable<Device>;
}

/** What the directories of all clients have in common. */
export interface ExportSource {
  readonly devices: Devices;
  readonly access: ExportAccess;
  /** The device that the empty name means; null: the only one, if there is only one. */
  readonly defaultExport: string | null;
  readonly warnings: Pick<ErrorLog, 'report'>;
}

const preferredBlockBytes = 4096;
/** Kinds of targets that a description names. */
const kindsTold = 8;

export class PeerDirectory implements ExportDirectory {
  readonly #source: ExportSource;
  readonly #peer: Peer;
  /** A client that is refused asks several times; the log has it once. */
  #logged = false;

  constructor(source: ExportSource, peer: Peer) {
    this.#source = source;
    this.#peer = peer;
  }

  list(): ExportEntry[] {
    return this.#listed()
      .filter((device) => this.#allows(device) && this.#source.access.full(device) === null)
      .map((device) => ({ name: device.name, description: this.#describe(device) }));
  }

  find(name: string): ExportInfo | null {
    const { access } = this.#source;
    // Whoever is not served at all does not learn which names there are.
    if (!access.serves(this.#peer)) throw this.#refusal(name, this.#notAllowed, null);
    const device = name === '' ? this.#default() : this.#named(name);
    const features = device?.live?.features;
    if (device === null || features === undefined) return null;
    if (!this.#allows(device)) throw this.#refusal(device.name, this.#notAllowed, device);
    const full = access.full(device);
    if (full !== null) throw this.#refusal(device.name, full, device);
    return {
      name: device.name,
      description: this.#describe(device),
      sizeBytes: device.sizeBytes,
      readOnly: device.readOnly || !features.writable || access.policyOf(device).readOnly,
      trim: features.trim,
      fastZero: features.fastZero,
      cache: true,
      rotational: features.rotational,
      // All connections share one device, which keeps no cache for each.
      multiConn: true,
      blockBytesMin: 1,
      blockBytesPreferred: Math.max(preferredBlockBytes, features.blockBytes),
      payloadBytesMax: payloadBytes,
    };
  }

  changeMaps(name: string): readonly ChangeMap[] {
    return this.#named(name)?.changeMaps() ?? [];
  }

  #named(name: string): Device | null {
    return this.#source.devices.find(name) ?? null;
  }

  /** Devices without a table have nothing to export. */
  #listed(): Device[] {
    const { devices, access } = this.#source;
    return [...devices.all()].filter(
      (device) => device.live !== null && !access.policyOf(device).hidden,
    );
  }

  /** The only one of those that the client sees in the list, or else the only one in it at all. */
  #default(): Device | null {
    const { defaultExport } = this.#source;
    if (defaultExport !== null) return this.#named(defaultExport);
    const listed = this.#listed();
    const own = listed.filter((device) => this.#allows(device));
    const [first, second] = own.length > 0 ? own : listed;
    return first !== undefined && second === undefined ? first : null;
  }

  #allows(device: Device): boolean {
    return this.#source.access.allows(device, this.#peer);
  }

  get #notAllowed(): string {
    return `address ${this.#peer.host} is not allowed`;
  }

  #refusal(name: string, why: string, device: Device | null): OptionRefusal {
    if (!this.#logged) {
      const { name: peer } = this.#peer;
      const fields = { peer, device: device?.name ?? null };
      this.#source.warnings.report(fields, `${peer}: refused export ${quoted(name)}: ${why}`);
    }
    this.#logged = true;
    return new OptionRefusal(REP_ERR_POLICY, `export ${quoted(name)}: ${why}`);
  }

  /** What LIST and INFO tell a person: the kinds of targets, in order, each once. */
  #describe(device: Device): string {
    const { description } = this.#source.access.policyOf(device);
    if (description !== null) return description;
    const types = (device.live?.slots ?? []).map((slot) => slot.target.type.name);
    return [...new Set(types)].slice(0, kindsTold).join(', ');
  }
}
