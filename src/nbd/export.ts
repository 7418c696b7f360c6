/** What the protocol needs to know of an export, and who knows the exports. */

import type { ChangeMap } from '../device/change-map.js';
import {
  FLAG_CAN_MULTI_CONN,
  FLAG_HAS_FLAGS,
  FLAG_READ_ONLY,
  FLAG_ROTATIONAL,
  FLAG_SEND_CACHE,
  FLAG_SEND_DF,
  FLAG_SEND_FAST_ZERO,
  FLAG_SEND_FLUSH,
  FLAG_SEND_FUA,
  FLAG_SEND_TRIM,
  FLAG_SEND_WRITE_ZEROES,
} from './constants.js';

/**
 * One export as it is now. FLUSH and FUA are always offered, WRITE_ZEROES whenever it is writable.
 * Name and description are at most `limits.stringBytes` of UTF-8 each, without NUL.
 */
export interface ExportInfo {
  /** The canonical name, whichever name the client asked for. */
  readonly name: string;
  /** For people; empty if there is nothing to say. */
  readonly description: string;
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  readonly trim: boolean;
  readonly fastZero: boolean;
  readonly cache: boolean;
  readonly rotational: boolean;
  /** A flush on one connection covers what was answered on all of them. */
  readonly multiConn: boolean;
  /** A power of two, at most 65536. */
  readonly blockBytesMin: number;
  /** A power of two, at least 512 and at least the minimum. */
  readonly blockBytesPreferred: number;
  /** Largest READ or WRITE, at least the preferred block size. */
  readonly payloadBytesMax: number;
}

/** A line of the list of exports. */
export interface ExportEntry {
  readonly name: string;
  readonly description: string;
}

/** The exports as one client may see them. */
export interface ExportDirectory {
  list(): readonly ExportEntry[];
  /**
   * The empty name is the default export, and the directory decides which that is. Throws
   * OptionRefusal for one that is there and that the client cannot have.
   */
  find(name: string): ExportInfo | null;
  /** What has changed in an export that was found, as far as there are records of it. */
  changeMaps(name: string): readonly ChangeMap[];
}

/** The u16 of transmission flags. DF exists only where replies are structured. */
export function transmissionFlags(info: ExportInfo, structured: boolean): number {
  let flags = FLAG_HAS_FLAGS | FLAG_SEND_FLUSH | FLAG_SEND_FUA;
  if (info.readOnly) {
    flags |= FLAG_READ_ONLY;
  } else {
    flags |= FLAG_SEND_WRITE_ZEROES;
    if (info.trim) flags |= FLAG_SEND_TRIM;
    if (info.fastZero) flags |= FLAG_SEND_FAST_ZERO;
  }
  if (info.rotational) flags |= FLAG_ROTATIONAL;
  if (info.cache) flags |= FLAG_SEND_CACHE;
  if (info.multiConn) flags |= FLAG_CAN_MULTI_CONN;
  if (structured) flags |= FLAG_SEND_DF;
  return flags;
}
