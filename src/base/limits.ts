/**
 * Every queue, frame, option and table has its maximum here, with the reason for it. Beyond a limit
 * on a stream the daemon stops reading; beyond a limit on a message it refuses the message.
 */

const KiB = 1024;
const MiB = 1024 * KiB;

// Memory. Address space is reserved at the start, pages become resident when they are first used.

/** All I/O buffers of the daemon: receive windows, read data, replies. */
export const arenaBytes = 512 * MiB;
/** Smallest buffer: a page, so that O_DIRECT always works. */
export const blockBytesMin = 4 * KiB;
/** Largest buffer. A longer request is carried out in pieces of this size. */
export const blockBytesMax = 1 * MiB;

// Connections.

export const connections = 1024;
/** From accept to the end of the handshake. */
export const handshakeMilliseconds = 10_000;
/** Options in one handshake; qemu and libnbd send fewer than ten. */
export const handshakeOptions = 1024;
/** Data of one option; more is read, thrown away and answered with ERR_TOO_BIG. */
export const optionBytes = 64 * KiB;
/** An option that claims more than this is an attack or a stream out of step: disconnect. */
export const optionBytesFatal = 16 * MiB;
/** Export names and other strings (the protocol's own maximum). */
export const stringBytes = 4096;
/** Queries in one LIST_META_CONTEXT or SET_META_CONTEXT. */
export const metaContextQueries = 64;
/** What a client that is told to go gets to take its last replies. */
export const disconnectMilliseconds = 5_000;

// Requests.

/** Largest payload of a READ or WRITE, advertised as the maximum block size. */
export const payloadBytes = 64 * MiB;
/** Past this a WRITE's claimed payload is not worth draining: disconnect. */
export const payloadBytesFatal = 256 * MiB;
/** Requests taken from one connection and not yet answered. */
export const requestsPerConnection = 256;
/**
 * Buffer bytes that one connection may hold: an equal share of half the arena, within these
 * bounds. 1024 connections at the lower bound take the half exactly.
 */
export const connectionBytesMin = 256 * KiB;
export const connectionBytesMax = 16 * MiB;
/** The other half is for requests larger than their connection's share, first come first served. */
export const largeRequestBytes = 4 * payloadBytes;
/** A connection's receive window grows from the first to the last while it is filled to the end. */
export const receiveBytesMin = 16 * KiB;
export const receiveBytesMax = 1 * MiB;
/** Receive windows of one connection kept alive by writes still on their way to the disk. */
export const receiveWindows = 4;
/** Extents in one BLOCK_STATUS reply; the client asks again from where the reply ended. */
export const extentsPerReply = 256;
/** Bytes of error text in a structured reply. */
export const errorTextBytes = 160;

// Devices.

export const devices = 4096;
export const deviceNameBytes = 127; // DM_NAME_LEN less the NUL
export const tableBytes = 1 * MiB;
export const targetsPerTable = 65_536;
/** Devices over devices over devices. */
export const stackDepth = 8;
/** Bytes in a device: exact as a double, and a signed 64-bit file offset anyway. */
export const deviceBytes = 2 ** 53 - 512;
/** Known holes that one file's extent cache remembers. */
export const holesPerFile = 4096;

// Control.

export const controlConnections = 64;
export const controlMessageBytes = 4 * MiB;
/** Messages from one control client that are being carried out. */
export const controlRequestsInFlight = 64;
/** Log lines about failed I/O of one device in a second; the rest are counted. */
export const errorLogsPerSecond = 20;

// Stalls.

/** A synchronous call that takes longer than this stands in other devices' way... */
export const stallMilliseconds = 2;
/** ...so its file is served asynchronously for this long. */
export const stallPenaltyMilliseconds = 1_000;
