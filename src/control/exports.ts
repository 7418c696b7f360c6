/** The exports of devices as their owners want them, and who has them now. */

import { readConnections } from '../device/counters.js';
import type { ExportPolicy } from '../nbd/export-policy.js';
import type { Catalogue } from './catalogue.js';
import type { KnownDevice } from './entries.js';
import type { ExportFacts, NamedExport, Params } from './messages.js';
import { knownDevice } from './snapshot/context.js';
import { realName, realUnder } from './snapshot/tables.js';
import { Undo } from './snapshot/undo.js';
import type { Steps } from './steps.js';

export class Exports {
  readonly #catalogue: Catalogue;

  constructor(catalogue: Catalogue) {
    this.#catalogue = catalogue;
  }

  /** Of one device. Throws MapperError ENXIO. */
  named(name: string): NamedExport {
    return this.#describe(knownDevice(this.#catalogue, name));
  }

  /** Of all devices, in the order of their names. */
  all(): NamedExport[] {
    return this.#catalogue.all().map((device) => this.#describe(device));
  }

  /** Changes what is given, and stores it. Throws MapperError; then nothing has changed. */
  async change(params: Params<'export'> & { name: string }): Promise<NamedExport> {
    const { name } = params;
    const change = changesIn(params);
    if (Object.keys(change).length === 0) return this.named(name);
    return this.#catalogue.exclusively([name, realName(name)], async (steps) => {
      await changePolicy(steps, name, change);
      return this.named(name);
    });
  }

  #describe(device: KnownDevice): NamedExport {
    const { name, stored, live } = device;
    return { name, ...this.facts(device), stored: stored && live !== null };
  }

  /** What `info` and `ls` tell of it. */
  facts({ name, policy }: KnownDevice): ExportFacts {
    const counters = this.#catalogue.counters(name);
    const clients = counters === null ? 0 : readConnections(counters);
    return { ...policy, allow: [...policy.allow], clients };
  }
}

function changesIn(params: Params<'export'>): Partial<ExportPolicy> {
  const { name: _, ...changes } = params;
  const given = Object.entries(changes).filter(([, value]) => value !== undefined);
  return Object.fromEntries(given) as Partial<ExportPolicy>;
}

/**
 * An origin's real device has the same data: the addresses that may have the origin are those that
 * may have it.
 */
async function changePolicy(
  steps: Steps,
  name: string,
  change: Partial<ExportPolicy>,
): Promise<void> {
  const device = knownDevice(steps.entries, name);
  const real = realUnder(device) === null ? null : steps.entries.known(realName(name));
  const undo = new Undo();
  try {
    if (real !== null && change.allow !== undefined) {
      undo.did(`give "${real.name}" its policy back`, () =>
        steps.setPolicy(real.name, real.policy),
      );
      await steps.setPolicy(real.name, { ...real.policy, allow: change.allow });
    }
    await steps.setPolicy(name, { ...device.policy, ...change });
  } catch (error) {
    await undo.takeBack(error);
  }
}
