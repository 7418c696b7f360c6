/**
 * Checks one transmission request against the export and what was negotiated. Targets trust what
 * passes here. A request that does not pass is answered with an error and the connection goes on;
 * the caller drains its payload either way.
 *
 * The order of the checks decides which error a request with several faults gets: the command, then
 * the right to write, the flags, what was negotiated, then length and range. Offsets and lengths
 * come as two u32 halves each. Below 2^53 their sum is exact; above, it is rounded, but stays above
 * 2^53 and with that past the end of everything, because sizes are below.
 *
 * A BLOCK_STATUS that names its contexts comes here twice: with the length of its payload, and then
 * without PAYLOAD_LEN and with the length that the payload tells.
 */

import { EINVAL, ENOSPC, EPERM } from '../base/errno.js';
import * as nbd from './constants.js';
import type { HandshakeOutcome } from './negotiation.js';

/** What requests of one connection are checked against; made once, when transmission starts. */
export interface TransmissionRules {
  readonly sizeBytes: number;
  readonly readOnly: boolean;
  /** Structured replies were negotiated, so DF may be used. */
  readonly structured: boolean;
  /** Extended headers were negotiated, so PAYLOAD_LEN may be used where there is a payload. */
  readonly extended: boolean;
  readonly trim: boolean;
  readonly fastZero: boolean;
  /**
   * Whether CACHE is advertised. It passes either way, because it is a hint and clients exist that
   * send it unasked: whoever carries it out may then just say yes.
   */
  readonly cache: boolean;
  /** Metadata contexts that were negotiated; with none there is no BLOCK_STATUS. */
  readonly contexts: number;
  /** Largest READ or WRITE. */
  readonly payloadBytesMax: number;
}

export function transmissionRules(outcome: HandshakeOutcome): TransmissionRules {
  const { exportInfo: info, structuredReplies, extendedHeaders, contexts } = outcome;
  return {
    sizeBytes: info.sizeBytes,
    readOnly: info.readOnly,
    structured: structuredReplies,
    extended: extendedHeaders,
    trim: info.trim && !info.readOnly,
    fastZero: info.fastZero && !info.readOnly,
    cache: info.cache,
    contexts: contexts.length,
    payloadBytesMax: info.payloadBytesMax,
  };
}

/** Bytes of a BLOCK_STATUS payload: u64 length, then a u32 for each of its contexts. */
export function statusPayloadBytes(contexts: number): number {
  return 8 + 4 * contexts;
}

const NONE = 0;
const COMMAND = 1;
const READ_ONLY = 2;
const FLAGS = 3;
const NO_TRIM = 4;
const NO_CONTEXT = 5;
const NOT_ZERO = 6;
const LENGTH_ZERO = 7;
const RANGE = 8;
const RANGE_OF_WRITE = 9;
const PAYLOAD = 10;
const STATUS_PAYLOAD = 11;

/**
 * The errno of each fault. A READ or WRITE longer than the largest payload gets EINVAL: the
 * protocol keeps EOVERFLOW for a READ that only DF makes too long, and tells the client by it to
 * ask again without DF, which would not help here.
 */
const errnos = new Uint8Array([
  0,
  EINVAL, // COMMAND
  EPERM, // READ_ONLY
  EINVAL, // FLAGS
  EINVAL, // NO_TRIM
  EINVAL, // NO_CONTEXT
  EINVAL, // NOT_ZERO
  EINVAL, // LENGTH_ZERO
  EINVAL, // RANGE
  ENOSPC, // RANGE_OF_WRITE
  EINVAL, // PAYLOAD
  EINVAL, // STATUS_PAYLOAD
]);

function isPastEnd(
  offsetHigh: number,
  offsetLow: number,
  length: number,
  sizeBytes: number,
): boolean {
  // Taking the length from the size is exact; adding it to the offset might not be. A length above
  // the size leaves less than any offset.
  return offsetHigh * 2 ** 32 + offsetLow > sizeBytes - length;
}

/** FUA is valid with every command once SEND_FUA is set, and it always is. */
function flagsOf(type: number, rules: TransmissionRules): number {
  switch (type) {
    case nbd.CMD_READ:
      return rules.structured ? nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_DF : nbd.CMD_FLAG_FUA;
    case nbd.CMD_WRITE:
      // The flag must be there with extended headers, but clients exist that leave it out.
      return rules.extended ? nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_PAYLOAD_LEN : nbd.CMD_FLAG_FUA;
    case nbd.CMD_WRITE_ZEROES:
      return rules.fastZero
        ? nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO
        : nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_NO_HOLE;
    case nbd.CMD_BLOCK_STATUS:
      return rules.extended && rules.contexts > 0
        ? nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_REQ_ONE | nbd.CMD_FLAG_PAYLOAD_LEN
        : nbd.CMD_FLAG_FUA | nbd.CMD_FLAG_REQ_ONE;
    default:
      return nbd.CMD_FLAG_FUA;
  }
}

function faultOf(
  type: number,
  flags: number,
  offsetHigh: number,
  offsetLow: number,
  lengthHigh: number,
  lengthLow: number,
  rules: TransmissionRules,
): number {
  const changes = type === nbd.CMD_WRITE || type === nbd.CMD_TRIM || type === nbd.CMD_WRITE_ZEROES;
  if (type > nbd.CMD_BLOCK_STATUS || type === nbd.CMD_DISC) return COMMAND;
  if (changes && rules.readOnly) return READ_ONLY;
  if ((flags & ~flagsOf(type, rules)) !== 0) return FLAGS;

  const length = lengthHigh * 2 ** 32 + lengthLow;
  if (type === nbd.CMD_FLUSH) {
    return offsetHigh === 0 && offsetLow === 0 && length === 0 ? NONE : NOT_ZERO;
  }
  if (type === nbd.CMD_TRIM && !rules.trim) return NO_TRIM;
  if (type === nbd.CMD_BLOCK_STATUS) {
    if (rules.contexts === 0) return NO_CONTEXT;
    if ((flags & nbd.CMD_FLAG_PAYLOAD_LEN) !== 0) {
      const most = statusPayloadBytes(rules.contexts);
      const fits = length >= statusPayloadBytes(1) && length <= most && length % 4 === 0;
      return fits ? NONE : STATUS_PAYLOAD;
    }
  }

  // The protocol leaves a length of zero open. It is refused for every command that has a range:
  // BLOCK_STATUS could not answer it with an extent, and a READ not with a chunk of data.
  if (length === 0) return LENGTH_ZERO;
  if (isPastEnd(offsetHigh, offsetLow, length, rules.sizeBytes)) {
    return type === nbd.CMD_WRITE || type === nbd.CMD_WRITE_ZEROES ? RANGE_OF_WRITE : RANGE;
  }
  const hasPayload = type === nbd.CMD_READ || type === nbd.CMD_WRITE;
  return hasPayload && length > rules.payloadBytesMax ? PAYLOAD : NONE;
}

/**
 * 0, or the NBD errno to answer with. All numbers are unsigned as they were on the wire; allocates
 * nothing. DISC does not come here: it has no answer.
 */
export function validateRequest(
  type: number,
  flags: number,
  offsetHigh: number,
  offsetLow: number,
  lengthHigh: number,
  lengthLow: number,
  rules: TransmissionRules,
): number {
  const fault = faultOf(type, flags, offsetHigh, offsetLow, lengthHigh, lengthLow, rules);
  return errnos[fault] as number;
}

const commandNames = [
  'read',
  'write',
  'disconnect',
  'flush',
  'trim',
  'cache',
  'write zeroes',
  'block status',
] as const;

/** `write zeroes` for 6; `command 99` for one without a name. */
export function commandName(type: number): string {
  return commandNames[type] ?? `command ${type}`;
}

function hex(value: number): string {
  return `0x${value.toString(16)}`;
}

/**
 * Why `validateRequest` refused: the value found and the value wanted, at most
 * `limits.errorTextBytes` of ASCII. For error chunks and the log; empty for a request that passes.
 */
export function requestFaultText(
  type: number,
  flags: number,
  offsetHigh: number,
  offsetLow: number,
  lengthHigh: number,
  lengthLow: number,
  rules: TransmissionRules,
): string {
  const fault = faultOf(type, flags, offsetHigh, offsetLow, lengthHigh, lengthLow, rules);
  const command = commandName(type);
  const offset = (BigInt(offsetHigh) << 32n) | BigInt(offsetLow);
  const length = (BigInt(lengthHigh) << 32n) | BigInt(lengthLow);
  switch (fault) {
    case COMMAND:
      return `${command}: not known`;
    case READ_ONLY:
      return `${command}: the export is read-only`;
    case FLAGS: {
      const known = flagsOf(type, rules);
      return `${command}: found flags ${hex(flags)}, wanted none but ${hex(known)}`;
    }
    case NO_TRIM:
      return `${command}: the export does not offer it`;
    case NO_CONTEXT:
      return `${command}: no metadata context was negotiated`;
    case NOT_ZERO:
      return `${command}: found offset ${offset} and length ${length}, wanted 0 and 0`;
    case LENGTH_ZERO:
      return `${command}: found length 0, wanted at least 1`;
    case RANGE:
    case RANGE_OF_WRITE:
      return (
        `${command}: found offset ${offset} and length ${length}, ` +
        `wanted an end within ${rules.sizeBytes}`
      );
    case PAYLOAD:
      return `${command}: found length ${length}, wanted at most ${rules.payloadBytesMax}`;
    case STATUS_PAYLOAD:
      return (
        `${command}: found a payload of ${length} bytes, ` +
        `wanted 8 and 4 for each of 1 to ${rules.contexts} contexts`
      );
    default:
      return '';
  }
}
