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
/** When fewer places than these are left, whoever has been longest in its handshake makes room. */
export const connectionsSpare = 32;
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
 * Buffer bytes that one connection may hold: an equal share of half the arena, within these bounds,
 * of which one half is for receiving and the other for replies. 1024 connections at the lower
 * bound take the half of the arena exactly.
 */
export const connectionBytesMin = 256 * KiB;
export const connectionBytesMax = 32 * MiB;
/** Of each half, what a connection has for certain, whatever others hold. */
export const guaranteedBytes = connectionBytesMin / 2;
/**
 * What connections hold beyond that, reads larger than their share included, comes out of one pool,
 * of which none may hold more than it leaves to others. The rest of the arena is for copies and for
 * the headers of replies.
 */
export const poolBytes = arenaBytes - connections * connectionBytesMin - 96 * MiB;
/** A connection's receive window grows and shrinks between these with what comes in at once. */
export const receiveBytesMin = 16 * KiB;
export const receiveBytesMax = 1 * MiB;
/** Receive windows of one connection kept alive by writes still on their way to the disk. */
export const receiveWindows = 4;
/** A WRITE's payload up to this is kept in one piece; a longer one may be written in several. */
export const contiguousBytes = 16 * KiB;
/** Headers and short data of the replies that leave in one send, and the pieces they are made of. */
export const batchBytes = 16 * KiB;
export const batchPieces = 512;
/** Ranges of a READ that are answered as holes; beyond that the rest is sent as data. */
export const holesPerRead = 16;
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
/** Parts of one split request that are under way at a time. */
export const splitParts = 64;
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
/** ...so its file is served asynchronously for this long the first time... */
export const stallPenaltyMillisecondsMin = 20;
/** ...and up to this when it happens again and again, which means within as long. */
export const stallPenaltyMilliseconds = 1_000;

// Handshake.

/** Replies that wait to be sent; a client that asks for more and does not take them is dropped. */
export const handshakeOutputBytes = 4 * MiB;

// Targets.

/** What the pages of all memory targets of a queue thread hold together; beyond it, ENOSPC. */
export const memoryTargetBytes = 8 * 1024 * MiB;
/** Longest single timer (Node's hold 31 bits); a longer delay is waited for in several. */
export const timerMilliseconds = 2 ** 31 - 1;
/** Characters of a wrong argument that an error text repeats. */
export const argumentTextLength = 64;

// Control sockets.

/** Header of a table's file in the state directory: a few comment lines with two names. */
export const tableHeaderBytes = 1 * KiB;
/** Table text that a control client may give: with the header it still is a table. */
export const controlTableBytes = tableBytes - tableHeaderBytes;
/** A reply to a control client; a longer one becomes an error that says so. */
export const controlReplyBytes = 16 * MiB;
/** Requests in one JSON-RPC batch. */
export const controlBatchRequests = 64;
/** Bytes that wait to be sent to a control client; with more, its next request waits... */
export const controlOutputBytes = 4 * MiB;
/** ...and a subscriber that takes its events so slowly is disconnected. */
export const controlEventBytes = 1 * MiB;
/** Frames of one fragmented control message. */
export const controlFragments = 1024;
/** Words of one device message (the message itself is bounded by controlMessageBytes). */
export const messageWords = 1_048_576;
/** Path of a unix socket: sun_path less the NUL. */
export const socketPathBytes = 107;
/** What a unix socket's owner gets to show that it is alive. */
export const probeMilliseconds = 2_000;
/** Longest transfer that is made synchronously: copying it takes some tens of microseconds. */
export const blockingBytesMax = 256 * KiB;

// Ring engine.

/** How long it looks for completions before it sleeps, at most, when that pays. */
export const busyPollMilliseconds = 0.05;
/** ...and what it may be set to: longer than that nobody would call it a moment. */
export const busyPollMillisecondsMax = 10;

// Node engine.

/** Blocking calls inside completions of blocking calls; past this one goes to the thread pool. */
export const blockingDepthMax = 16;
/** What Node reads ahead from a socket that nobody receives from, give or take one chunk. */
export const socketReadAheadBytes = 64 * KiB;
/** A signal that comes again this soon is the same one told twice (npm and the terminal both do). */
export const signalRepeatMilliseconds = 500;
/** File systems whose abilities are remembered. */
export const fileSystems = 64;

// Splits.

/**
 * Parts of one STATUS, looked up one after the other, often in one go: a thousand take a
 * millisecond or two. The answer ends there, and who wants more asks again.
 */
export const statusParts = 1024;

// Copies.

/** Places that one copy job writes to (the kernel's kcopyd has the same maximum). */
export const copyDestinations = 8;
/** A job is carried out in slices of this size... */
export const copySliceBytes = 512 * KiB;
/** ...so many of them at once. */
export const copySlices = 8;
/** What all slices under way hold of the arena together; beyond it, they wait for one another. */
export const copyMemoryBytes = 64 * MiB;
/** The arena is full of other things: how long until it is asked again. */
export const copyMemoryMilliseconds = 10;
/** Longest range that is made zeroes at once, and longest that the system clones at once. */
export const copyZeroBytes = 16 * MiB;
export const copyCloneBytes = 16 * MiB;
/** How far a job looks ahead for holes at a time, and the extents that it is told of. */
export const copyAheadBytes = 1024 * MiB;
export const copyExtents = 256;
/** Zeroes are looked for in blocks of this size. */
export const copyBlockBytes = 4 * KiB;
/**
 * Copies that never have to wait would keep the thread to themselves: after so much (a step,
 * however small, counts as some bytes) the rest goes on in the next turn.
 */
export const copyTurnBytes = 2 * MiB;
export const copyStepBytes = 4 * KiB;
/** A throttled job sleeps for so long, at most so many times in a row. */
export const copySleepMilliseconds = 100;
export const copySleeps = 10;
/** The span of time that a throttle looks back on. */
export const copyThrottleMilliseconds = 1_000;
/** Copies that people asked for: so many at once, the others wait; their memory is half of all. */
export const copyJobsAtOnce = 8;
export const copyJobsWaiting = 64;
/** Those that have ended are listed until so many more have. */
export const copyJobsEnded = 64;
/** Longest that an answer waits for a job to end; who wants to wait longer asks again. */
export const copyJobWaitMilliseconds = 10_000;

// Snapshots.

/** Copies of chunks under way for one snapshot; beyond it, writes wait. */
export const snapshotCopies = 2048;
/** Chunk size: 2^21 sectors are 1 GiB, the kernel's limit. */
export const chunkSectorsMax = 2 ** 21;
/** Of a file that is to be a COW: what is looked at, and wiped, of its first chunk. */
export const cowHeadBytes = 1 * MiB;
/** Past this the fill of a COW is a matter for its owner. */
export const fillWarningPercent = 80;
/** How far a write to an origin looks ahead: so many of the smallest chunks are copied at once. */
export const originWindowChunks = 64;
/** Somebody should hear when so much of a snapshot's COW is in use. */
export const fillPercents: readonly number[] = [80, 85, 90, 95, 100];
/** A merge takes so many chunks at once, or one: writes to them have to wait. */
export const mergeBytes = 1 * MiB;

// Uploads.

/** A region table, or a part of a larger one, that a control client uploads or downloads at once. */
export const uploadBytes = 64 * MiB;
/** The region tables of one device in the state directory. */
export const regionFileBytes = 1024 * MiB;
/** A table that could not be stored is tried again after so long. */
export const regionSaveMilliseconds = 1_000;

// Region tables.

/** Slots of 64 bits that are allocated at once, when the first of their entries is changed. */
export const regionLeafSlots = 4096;
/** Beyond it, a table would take more than half a GiB. */
export const regions = 2 ** 28;
/** An entry has 16 bits. */
export const regionPaths = 65_536;
/** Entries that are changed, counted or looked at in one turn; the rest waits for the next. */
export const regionsPerTurn = 32_768;
/** Regions that are looked at to find out how far a request stays on its path. */
export const regionsPerPiece = 4096;

// Moves of regions.

/** Regions are moved so many bytes at once (or one, if it is larger)... */
export const moveBatchBytes = 4 * MiB;
/** ...in so many batches at a time. */
export const moveBatches = 4;
/** Batches that are moved and not yet stored; writes to them go to both sides. */
export const moveUnsavedBatches = 64;
/** Writes while a batch is copied: what they changed is told in slices, at most so many. */
export const moveSliceBytes = 64 * KiB;
export const moveSlices = 4096;
/** What was changed is copied again, so often; then, or when it is as little as this, writes wait. */
export const movePasses = 4;
export const moveRestBytes = 1 * MiB;

// Gate (TLS, standard input and output).

/** What the gate holds of one connection, each way, before it stops reading that way. */
export const gateBufferBytes = 128 * KiB;
/** What is kept ready for handshakes at once; more are made when they are needed. */
export const gateAcceptors = 8;
/** What the gate tells the queue of a client before that client's first byte. */
export const preambleBytes = 1 * KiB;
/** A certificate chain, key, revocation list or file of pre-shared keys. */
export const credentialBytes = 4 * MiB;
/** A pre-shared key (OpenSSL's maximum) and its user's name (GnuTLS's). */
export const pskBytes = 512;
export const pskUserBytes = 128;

// Requests of 64 bits.

/**
 * A TRIM or WRITE_ZEROES that is longer is carried out step after step, and others have their turn
 * in between: more than compact headers can ask for at once, nobody has to.
 */
export const rangeStepBytes = 4 * 1024 * MiB;
/** Answers of single contexts that the BLOCK_STATUS requests of one connection hold together. */
export const statusAnswersPerConnection = requestsPerConnection;

// Change maps.

/** Extents, or leaves of exceptions, that are looked at for one answer: some milliseconds' worth. */
export const changeSteps = 1024;

// Exports.

/** What the owner of a device says about its export, in words. */
export const exportDescriptionBytes = 1 * KiB;
/** Addresses and blocks of addresses that one export is for. */
export const exportBlocks = 64;
/** Lines about its export in a device's file, which its table is not the smaller for. */
export const exportLinesBytes = 8 * KiB;

// Ways of running.

/** Listening sockets that whoever starts the daemon passes to it. */
export const inheritedSockets = 64;
/** How often the daemon looks whether its parent still is there, if it is to end with it. */
export const parentMilliseconds = 200;
/** What a command (--run) gets to end by itself when it is told to. */
export const commandEndMilliseconds = 5_000;
/** What telling the service manager may take. */
export const notifyMilliseconds = 2_000;

// The kernel's devices.

/** Connections of one device. */
export const attachConnections = 64;
/** What nbd-client and the kernel may take to attach a device, or to detach it. */
export const attachMilliseconds = 60_000;
export const attachPollMilliseconds = 50;
/** What others who look into a device may keep it for when it is to be detached. */
export const detachMilliseconds = 10_000;
/** With --persist: from when on a request's connection counts as dead, and how long it waits then. */
export const persistTimeoutSeconds = 30;
export const persistWaitSeconds = 600;
export const persistWaitSecondsMax = 31_536_000;
/** How often is looked for dead connections, and tried to replace them. */
export const keepAttachedMilliseconds = 500;

// Logs of writes.

/** Requests that one log-writes target has on their way into its log; beyond it, they wait. */
export const logWritesAtOnce = 126;

// Hostile and unlucky clients.

/** All that the daemon has resident, whatever its clients do: the arena, and what they ask for. */
export const residentBytes = arenaBytes + 512 * MiB;
/** Requests of all connections that are not answered; each may have some of them for certain. */
export const requestsInAll = 65_536;
export const requestsGuaranteed = 16;
/** Answers to BLOCK_STATUS that all connections hold; each may have one request's for certain. */
export const statusAnswersInAll = 16_384;
/** Handshake replies of all connections that wait to be sent; beyond it, the long ones are dropped. */
export const handshakeOutputInAllBytes = 64 * MiB;
export const handshakeOutputShortBytes = 64 * KiB;
/** A TCP peer that says nothing for so long is asked whether it is there; ten seconds later it is gone. */
export const keepAliveSeconds = 120;
/** Log lines about connections in a second; the rest are counted. */
export const connectionLogsPerSecond = 20;
/** What a shutdown may take before the daemon ends without it: a disk may hang for ever. */
export const shutdownMilliseconds = 60_000;
/** What the queue thread gets to tell what it waits for; without an answer it hangs itself. */
export const hangingMilliseconds = 1_000;

// Files between daemons.

/** Daemons that may have one file open at once, if all of them only read. */
export const fileReaders = 16;
/** A lock that another is looking at, or holds: how often it is tried, and how long between. */
export const lockTries = 5;
export const lockTryMilliseconds = 4;

// Control over TCP.

/**
 * Characters of a client's requests under way; beyond it its socket is not read. The longest has
 * room beside an upload, whose bytes may stand behind it.
 */
export const controlInputBytes = 2 * controlMessageBytes;
/** What all uploads hold that are not answered; another is refused for the time being. */
export const uploadBytesInAll = 4 * uploadBytes;

/** Characters of the token: 32 of base64 hold 192 bits. */
export const controlTokenBytesMin = 32;
export const controlTokenBytesMax = 1024;
/** How often HTTP looks for clients whose handshake takes too long. */
export const controlHandshakeLookMilliseconds = 1_000;
/** Log lines about clients that were refused, in a second; the rest are counted. */
export const refusalLogsPerSecond = 5;
