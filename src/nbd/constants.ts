/**
 * The numbers of the NBD protocol, under the protocol's own names less the NBD_ in front. All of
 * the wire is big-endian. Magics of 64 bits are two halves, so that no BigInt is needed.
 */

// Handshake magics.

/** "NBDMAGIC", the first eight bytes of every server. */
export const INIT_PASSWD_HIGH = 0x4e42444d;
export const INIT_PASSWD_LOW = 0x41474943;
/** "IHAVEOPT", the newstyle server's second magic and the start of every option. */
export const IHAVEOPT_HIGH = 0x49484156;
export const IHAVEOPT_LOW = 0x454f5054;
/** The start of every reply to an option. */
export const OPTION_REPLY_MAGIC_HIGH = 0x0003e889;
export const OPTION_REPLY_MAGIC_LOW = 0x045565a9;

// Transmission magics.

export const REQUEST_MAGIC = 0x25609513;
export const SIMPLE_REPLY_MAGIC = 0x67446698;
export const STRUCTURED_REPLY_MAGIC = 0x668e33ef;
export const EXTENDED_REQUEST_MAGIC = 0x21e41c71;
export const EXTENDED_REPLY_MAGIC = 0x6e8a278c;

// Sizes in bytes of what has a fixed size.

/** Both magics and the handshake flags. */
export const GREETING_BYTES = 18;
export const CLIENT_FLAGS_BYTES = 4;
export const OPTION_HEADER_BYTES = 16;
export const OPTION_REPLY_HEADER_BYTES = 20;
/** What follows size and flags in the answer to EXPORT_NAME, unless NO_ZEROES was agreed. */
export const EXPORT_NAME_ZEROES = 124;
export const REQUEST_BYTES = 28;
export const EXTENDED_REQUEST_BYTES = 32;
export const SIMPLE_REPLY_BYTES = 16;
export const STRUCTURED_REPLY_BYTES = 20;
export const EXTENDED_REPLY_BYTES = 32;

// Handshake flags (server, u16) and client flags (u32): the same bits.

export const FLAG_FIXED_NEWSTYLE = 1;
export const FLAG_NO_ZEROES = 2;

// Options.

export const OPT_EXPORT_NAME = 1;
export const OPT_ABORT = 2;
export const OPT_LIST = 3;
/** Withdrawn from the protocol. */
export const OPT_PEEK_EXPORT = 4;
export const OPT_STARTTLS = 5;
export const OPT_INFO = 6;
export const OPT_GO = 7;
export const OPT_STRUCTURED_REPLY = 8;
export const OPT_LIST_META_CONTEXT = 9;
export const OPT_SET_META_CONTEXT = 10;
export const OPT_EXTENDED_HEADERS = 11;

// Replies to options.

export const REP_ACK = 1;
export const REP_SERVER = 2;
export const REP_INFO = 3;
export const REP_META_CONTEXT = 4;
/** Set in every error reply; the data of one is a text for a person. */
export const REP_ERROR_BIT = 0x80000000;
export const REP_ERR_UNSUP = 0x80000001;
export const REP_ERR_POLICY = 0x80000002;
export const REP_ERR_INVALID = 0x80000003;
export const REP_ERR_PLATFORM = 0x80000004;
export const REP_ERR_TLS_REQD = 0x80000005;
export const REP_ERR_UNKNOWN = 0x80000006;
export const REP_ERR_SHUTDOWN = 0x80000007;
export const REP_ERR_BLOCK_SIZE_REQD = 0x80000008;
export const REP_ERR_TOO_BIG = 0x80000009;
export const REP_ERR_EXT_HEADER_REQD = 0x8000000a;

// What an INFO reply tells.

export const INFO_EXPORT = 0;
export const INFO_NAME = 1;
export const INFO_DESCRIPTION = 2;
export const INFO_BLOCK_SIZE = 3;

// Transmission flags (u16), which tell what an export can do.

export const FLAG_HAS_FLAGS = 1 << 0;
export const FLAG_READ_ONLY = 1 << 1;
export const FLAG_SEND_FLUSH = 1 << 2;
export const FLAG_SEND_FUA = 1 << 3;
export const FLAG_ROTATIONAL = 1 << 4;
export const FLAG_SEND_TRIM = 1 << 5;
export const FLAG_SEND_WRITE_ZEROES = 1 << 6;
/** Only with structured replies. */
export const FLAG_SEND_DF = 1 << 7;
export const FLAG_CAN_MULTI_CONN = 1 << 8;
/** An extension that nobody ships. */
export const FLAG_SEND_RESIZE = 1 << 9;
export const FLAG_SEND_CACHE = 1 << 10;
/** Only with FLAG_SEND_WRITE_ZEROES. */
export const FLAG_SEND_FAST_ZERO = 1 << 11;
/** Only with extended headers: BLOCK_STATUS may name the contexts that it asks for. */
export const FLAG_BLOCK_STATUS_PAYLOAD = 1 << 12;

// Commands.

export const CMD_READ = 0;
export const CMD_WRITE = 1;
export const CMD_DISC = 2;
export const CMD_FLUSH = 3;
export const CMD_TRIM = 4;
export const CMD_CACHE = 5;
export const CMD_WRITE_ZEROES = 6;
export const CMD_BLOCK_STATUS = 7;

// Command flags (u16).

/** The command's own data is durable before its reply. */
export const CMD_FLAG_FUA = 1 << 0;
/** WRITE_ZEROES: keep the space allocated. */
export const CMD_FLAG_NO_HOLE = 1 << 1;
/** READ: answer with one content chunk. */
export const CMD_FLAG_DF = 1 << 2;
/** BLOCK_STATUS: answer with one extent, no longer than the request. */
export const CMD_FLAG_REQ_ONE = 1 << 3;
/** WRITE_ZEROES: only if it is cheaper than a write, else ENOTSUP at once. */
export const CMD_FLAG_FAST_ZERO = 1 << 4;
/** Only with extended headers: the header's length is that of a payload, which follows. */
export const CMD_FLAG_PAYLOAD_LEN = 1 << 5;

// Structured replies.

/** Chunk flag: the last chunk of this reply. */
export const REPLY_FLAG_DONE = 1;
export const REPLY_TYPE_NONE = 0;
export const REPLY_TYPE_OFFSET_DATA = 1;
export const REPLY_TYPE_OFFSET_HOLE = 2;
export const REPLY_TYPE_BLOCK_STATUS = 5;
/** Only with extended headers, and then instead of REPLY_TYPE_BLOCK_STATUS. */
export const REPLY_TYPE_BLOCK_STATUS_EXT = 6;
export const REPLY_TYPE_ERROR = 0x8001;
export const REPLY_TYPE_ERROR_OFFSET = 0x8002;

// Error values: no other may go on the wire. They equal Linux's errno.

export const NBD_EPERM = 1;
export const NBD_EIO = 5;
export const NBD_ENOMEM = 12;
export const NBD_EINVAL = 22;
export const NBD_ENOSPC = 28;
/** Only for a READ with CMD_FLAG_DF that is too long for one chunk. */
export const NBD_EOVERFLOW = 75;
/** Only for WRITE_ZEROES with CMD_FLAG_FAST_ZERO. */
export const NBD_ENOTSUP = 95;
export const NBD_ESHUTDOWN = 108;

// Metadata contexts.

/** A query of a namespace alone asks for all that is in it. */
export const BASE_NAMESPACE = 'base:';
export const BASE_ALLOCATION = 'base:allocation';
/** Registered by QEMU: what its images tell of their layers. */
export const QEMU_NAMESPACE = 'qemu:';
export const QEMU_ALLOCATION_DEPTH = 'qemu:allocation-depth';
/** A name follows. Extents have the bit EXTENT_DIRTY. */
export const QEMU_DIRTY_BITMAP = 'qemu:dirty-bitmap:';
/** base:allocation: writing there may run out of space. */
export const STATE_HOLE = 1;
/** base:allocation: reads as zeroes. */
export const STATE_ZERO = 2;
