/**
 * The engine does all I/O of the data plane: files, sockets, timers. Everything above it is the
 * same code on every engine, and knows no file descriptor and no system call.
 *
 * Buffers are byte offsets into the engine's arena, lengths and file offsets are bytes. An
 * operation ends with one call of `done` on the completion it was given, perhaps before the call
 * that started it returns (a synchronous write does), so set up all state first. Results are like
 * the kernel's: a count of bytes, which may be short, or a negative errno.
 *
 * Everything an engine calls runs on one thread, one thing at a time, in *turns*: a turn handles
 * all that has completed, then runs the turn-end hooks, then waits.
 */

import type { Arena } from './arena.js';

/** Who is told how an operation ended. */
export interface Completion {
  /** Bytes moved (or 0 for an operation that moves none), or a negative errno. */
  done(result: number): void;
}

/** Something with work to do once, after everything of this turn has been handled. */
export interface TurnEnd {
  turnEnd(): void;
}

export interface Engine {
  readonly name: 'uring' | 'node' | 'simulated';
  readonly arena: Arena;

  /** Monotonic milliseconds, taken once a turn. */
  readonly now: number;
  /** The same clock, read now. */
  clock(): number;

  /** Opens a file or block device. Throws MapperError with the system's errno. */
  open(path: string, options: OpenOptions): EngineFile;

  /**
   * Listens on TCP (a numeric address) or on a unix socket, which replaces a stale one. Throws
   * MapperError, with EADDRINUSE when somebody answers there.
   */
  listen(source: ListenSource, handler: ConnectionHandler): Promise<EngineListener>;

  /** A vector for `send`, with room for that many pieces. It lives as long as the engine. */
  sendVector(capacity: number): SendVector;

  /** Calls `done(0)` once, after that many milliseconds. Returns a handle for `cancelTimer`. */
  timer(milliseconds: number, completion: Completion): Timer;
  /** The completion will not be called. Harmless when the timer has already run. */
  cancelTimer(timer: Timer): void;

  /** Runs `hook.turnEnd()` at the end of this turn. Asking again in one turn is the caller's bug. */
  atTurnEnd(hook: TurnEnd): void;

  /**
   * To be called by whoever resolves a promise: the engine must let promise continuations run
   * before it waits for I/O again.
   */
  promiseResolved(): void;

  /**
   * Lets another thread wake this one: it writes a byte to the descriptor that is returned, and
   * `woken` is called. Null for an engine whose thread has an event loop anyway.
   */
  onWake(woken: () => void): number | null;

  /** Runs until `stop`. */
  run(): Promise<void>;
  stop(): void;
}

export interface Timer {
  readonly due: number;
}

export interface OpenOptions {
  readonly writable: boolean;
  /** O_DIRECT: past the page cache. */
  readonly direct: boolean;
}

export const FUA = 1;

/** Ways of `copyTo`: the two files share the blocks, whole ones only... */
export const COPY_BY_CLONE = 1;
/** ...or the system copies them, at most 256 KiB at a time. */
export const COPY_BY_SYSTEM = 2;
export type CopyWay = typeof COPY_BY_CLONE | typeof COPY_BY_SYSTEM;

export interface EngineFile {
  readonly path: string;
  /** Identity of the file beneath, `device:inode`, the same for every path to it. */
  readonly identity: string;
  readonly writable: boolean;
  readonly direct: boolean;
  /** What offsets, lengths and buffers must be multiples of: 1, or the block size under O_DIRECT. */
  readonly alignmentBytes: number;
  readonly rotational: boolean;
  /** Can `trim`, `zero` without writing, and tell extents. */
  readonly canTrim: boolean;
  readonly canZero: boolean;
  readonly canExtents: boolean;

  /** Bytes, asked from the system anew each time: a file may grow. */
  size(): number;

  read(offset: number, memory: number, length: number, completion: Completion): void;
  /** flags: FUA makes the data durable before `done`. */
  write(
    offset: number,
    memory: number,
    length: number,
    flags: number,
    completion: Completion,
  ): void;
  /** Data that was written and answered before becomes durable (fdatasync). */
  flush(completion: Completion): void;
  /** Punches a hole: the range reads as zeroes and holds no space. Only if `canTrim`. */
  trim(offset: number, length: number, completion: Completion): void;
  /** The range reads as zeroes and keeps its space. Only if `canZero`. */
  zero(offset: number, length: number, completion: Completion): void;
  /**
   * Where the extent that starts at `offset` ends, in bytes, as a positive number for data and a
   * negative one for a hole. Only if `canExtents`. `size()` bounds it.
   */
  extentEnd(offset: number): number;
  /**
   * The system copies a range to another file of this engine, perhaps short, without its passing
   * through the arena. It may refuse: for ever (EXDEV, EOPNOTSUPP, EINVAL), or for a while (EAGAIN:
   * it would hold up the thread). Not there: the engine has no such operation.
   */
  copyTo?(
    destination: EngineFile,
    sourceOffset: number,
    destinationOffset: number,
    length: number,
    way: CopyWay,
    completion: Completion,
  ): void;

  /** The caller has no operation under way. */
  close(): void;
}

export type ListenAddress =
  | { readonly kind: 'tcp'; readonly host: string; readonly port: number }
  | { readonly kind: 'unix'; readonly path: string };

/** What to listen on: an address, or a listening socket that was opened for us (activation). */
export type ListenSource = ListenAddress | { readonly kind: 'fd'; readonly fd: number };

export interface ConnectionHandler {
  /** A new connection; `peer` names it for the log. */
  accepted(socket: EngineSocket, peer: string): void;
}

export interface EngineListener {
  /** The address really listened on (port 0 becomes the port that was given). */
  readonly address: ListenAddress;
  /** Stops accepting; connections live on. Removes a unix socket's file. */
  close(): void;
}

export interface EngineSocket {
  /** Receives up to `length` bytes. One at a time. 0 means that the peer has ended its side. */
  receive(memory: number, length: number, completion: Completion): void;
  /**
   * Sends everything in the vector. One at a time. The vector must stay as it is until `done`,
   * which gets the number of bytes, always all of them, or a negative errno.
   */
  send(vector: SendVector, completion: Completion): void;
  /** Ends both directions: a receive or send under way ends soon with 0 or an error. */
  shutdown(): void;
  /** Gives the descriptor back. The caller has no operation under way. */
  close(): void;
}

/** Pieces of arena memory to be sent in one go, kept in the form the kernel takes (struct iovec). */
export interface SendVector {
  /** Arena offset of the iovec array: u64 address, u64 length for each entry. */
  readonly memory: number;
  /** Entries in use. */
  count: number;
  /** Sum of the lengths. */
  bytes: number;
  /** Appends a piece; the caller has checked that `count < capacity`. */
  push(memory: number, length: number): void;
  /** The last piece goes on for that many bytes. */
  extendLast(length: number): void;
  clear(): void;
  readonly capacity: number;
}
