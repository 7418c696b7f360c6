/**
 * The devices that the control thread knows, with the texts of their tables. Nothing here asks
 * anybody or writes anything.
 */

import { E2BIG } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { controlTableBytes } from '../base/limits.js';
import type { ExportPolicy } from '../nbd/export-policy.js';
import { isOpen } from './export-text.js';
import type { StoredDevice } from './state.js';
import { renameInTable } from './table-text.js';

/** What is known of a device without asking anybody. */
export interface KnownDevice {
  readonly name: string;
  readonly live: string | null;
  readonly inactive: string | null;
  readonly readOnly: boolean;
  readonly stored: boolean;
  readonly created: string | undefined;
  /** Of its export. */
  readonly policy: ExportPolicy;
}

/** A device's table texts; all of them follow when a device beneath is renamed. */
export interface Texts {
  /** The live table, null when there is none. */
  live: string | null;
  inactive: string | null;
  /** On its way into the inactive slot. */
  loading: string | null;
  /** The live table before a resume that has not succeeded yet. */
  previous: string | null;
  /** What the file holds, or is going to when what is being written is; null: there is no file. */
  file: string | null;
}

export interface Entry {
  readonly texts: Texts;
  readonly readOnly: boolean;
  readonly stored: boolean;
  readonly created: string | undefined;
  /** Of its export; the file has it, too. */
  policy: ExportPolicy;
  /** The table in its file; null when there is no file, `unsure` when writing it has not ended. */
  filed: string | null;
  counters: SharedArrayBuffer | null;
}

/** No table's text. */
export const unsure = '';

export class Entries {
  readonly #entries = new Map<string, Entry>();

  has(name: string): boolean {
    return this.#entries.has(name);
  }

  get(name: string): Entry | undefined {
    return this.#entries.get(name);
  }

  set(name: string, entry: Entry): void {
    this.#entries.set(name, entry);
  }

  /** What a device is called now; null when it is gone. */
  nameOf(entry: Entry): string | null {
    for (const [name, one] of this.#entries) if (one === entry) return name;
    return null;
  }

  delete(name: string): void {
    this.#entries.delete(name);
  }

  [Symbol.iterator](): Iterator<[string, Entry]> {
    return this.#entries.entries();
  }

  known(name: string): KnownDevice | null {
    const entry = this.#entries.get(name);
    if (entry === undefined) return null;
    const { texts, readOnly, stored, created, policy } = entry;
    const { live, inactive } = texts;
    return { name, live, inactive, readOnly, stored, created, policy };
  }

  /** In the order of their names. */
  names(): string[] {
    return [...this.#entries.keys()].sort();
  }

  /** In the order of their names. */
  all(): KnownDevice[] {
    return this.names().map((name) => this.known(name) as KnownDevice);
  }

  /** Every table that somebody might use, those on their way included. */
  *tables(): Iterable<{ name: string; table: string }> {
    for (const [name, { texts }] of this.#entries) {
      for (const table of Object.values(texts)) if (table !== null) yield { name, table };
    }
  }

  /** Moves the entry, changes every text that names it, gives back those of files as they were. */
  rename(name: string, newName: string): Map<string, string | null> {
    const moved = this.#entries.get(name);
    if (moved !== undefined) {
      this.#entries.delete(name);
      this.#entries.set(newName, moved);
    }
    const before = new Map<string, string | null>();
    for (const [other, { texts }] of this.#entries) {
      before.set(other, texts.file);
      for (const slot of ['live', 'inactive', 'loading', 'previous', 'file'] as const) {
        const text = texts[slot];
        if (text !== null) texts[slot] = renameInTable(text, name, newName);
      }
    }
    return before;
  }

  /** Throws MapperError if a table could not name the device by its new name. */
  refuseTooLong(name: string, newName: string): void {
    for (const [other, { texts }] of this.#entries) {
      const text = texts.live === null ? '' : renameInTable(texts.live, name, newName);
      if (text !== texts.live && Buffer.byteLength(text) > controlTableBytes) {
        throw new MapperError(E2BIG, `the table of "${other}" would become too long`);
      }
    }
  }
}

export function storedDevice(name: string, entry: Entry, table: string): StoredDevice {
  const { readOnly, created, policy } = entry;
  const said = isOpen(policy) ? undefined : policy;
  return { name, table, readOnly, ...optional('created', created), ...optional('policy', said) };
}

/** The key, unless there is nothing to say. */
export function optional<K extends string, V>(key: K, value: V | undefined): { [P in K]?: V } {
  return value === undefined ? {} : ({ [key]: value } as { [P in K]: V });
}
