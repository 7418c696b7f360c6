/**
 * The system calls that the uring engine makes, through koffi: every foreign declaration of the
 * project is here, behind a wrapper that checks. Results are like the kernel's: a number, or a
 * negative errno. Addresses are numbers (user space has 47 bits of them).
 */

import type koffiModule from 'koffi';
import type { LibraryHandle } from 'koffi';
import { assert } from '../../base/assert.js';
import { EINTR } from '../../base/errno.js';
import { MapperError, messageOf } from '../../base/errors.js';

type Koffi = typeof koffiModule;

const SYS_IO_URING_SETUP = 425;
const SYS_IO_URING_ENTER = 426;
const SYS_IO_URING_REGISTER = 427;
/** _IOW(0x94, 13, struct file_clone_range) */
const FICLONERANGE = 0x4020940d;
const F_GETFL = 3;
const F_SETFL = 4;
const LOCK_NB = 4;
const O_NONBLOCK = 0o4000;
const PROT_READ_WRITE = 3;
const MAP_SHARED_POPULATE = 0x8001;

export const SEEK_END = 2;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

export class System {
  readonly #koffi: Koffi;
  readonly #setup: (call: number, entries: number, params: Uint8Array) => number;
  readonly #enter: (
    call: number,
    fd: number,
    submit: number,
    wait: number,
    flags: number,
    argument: number,
    size: number,
  ) => number;
  readonly #register: (
    call: number,
    fd: number,
    operation: number,
    argument: Uint8Array,
    count: number,
  ) => number;
  readonly #mmap: (
    address: null,
    length: number,
    protection: number,
    flags: number,
    fd: number,
    offset: number,
  ) => unknown;
  readonly #pread: (fd: number, address: number, length: number, offset: number) => number;
  readonly #pwrite: (fd: number, address: number, length: number, offset: number) => number;
  readonly #pwritev2: (
    fd: number,
    vector: Uint8Array,
    count: number,
    offset: number,
    flags: number,
  ) => number;
  readonly #preadv2: (
    fd: number,
    vector: Uint8Array,
    count: number,
    offset: number,
    flags: number,
  ) => number;
  readonly #lseek: (fd: number, offset: number, whence: number) => number;
  readonly #memcpy: (target: number, source: number, length: number) => unknown;
  readonly #socket: (family: number, type: number, protocol: number) => number;
  readonly #bind: (fd: number, address: Uint8Array, length: number) => number;
  readonly #connect: (fd: number, address: Uint8Array, length: number) => number;
  readonly #listen: (fd: number, backlog: number) => number;
  readonly #getsockname: (fd: number, address: Uint8Array, length: Uint8Array) => number;
  readonly #setsockopt: (
    fd: number,
    level: number,
    option: number,
    value: Uint8Array,
    length: number,
  ) => number;
  readonly #getsockopt: (
    fd: number,
    level: number,
    option: number,
    value: Uint8Array,
    length: Uint8Array,
  ) => number;
  readonly #fcntl: (fd: number, command: number, argument: number) => number;
  readonly #flock: (fd: number, operation: number) => number;
  readonly #shutdown: (fd: number, how: number) => number;
  readonly #close: (fd: number) => number;
  readonly #exit: (status: number) => void;
  readonly #fallocate: (fd: number, mode: number, offset: number, length: number) => number;
  readonly #pipe2: (fds: Uint8Array, flags: number) => number;
  readonly #ioctl: (fd: number, request: number, argument: Uint8Array) => number;
  readonly #copyFileRange: (
    source: number,
    sourceOffset: Uint8Array,
    destination: number,
    destinationOffset: Uint8Array,
    length: number,
    flags: number,
  ) => number;
  /** Arguments in memory: two offsets of copy_file_range, or a struct file_clone_range. */
  readonly #arguments = new DataView(new ArrayBuffer(32));
  readonly #firstArgument = new Uint8Array(this.#arguments.buffer, 0, 8);
  readonly #secondArgument = new Uint8Array(this.#arguments.buffer, 8, 8);
  readonly #allArguments = new Uint8Array(this.#arguments.buffer);

  private constructor(koffi: Koffi, libc: LibraryHandle) {
    this.#koffi = koffi;
    this.#setup = libc.func('long syscall(long n, long entries, _Inout_ uint8_t *params)');
    this.#enter = libc.func(
      'int syscall(long n, int fd, uint32_t submit, uint32_t wait, uint32_t flags, uintptr_t argument, size_t size)',
    );
    this.#register = libc.func(
      'int syscall(long n, int fd, uint32_t operation, _Inout_ uint8_t *argument, uint32_t count)',
    );
    this.#mmap = libc.func(
      'void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)',
    );
    this.#pread = libc.func('long pread(int fd, uintptr_t address, size_t length, int64_t offset)');
    this.#pwrite = libc.func(
      'long pwrite(int fd, uintptr_t address, size_t length, int64_t offset)',
    );
    this.#pwritev2 = libc.func(
      'long pwritev2(int fd, uint8_t *vector, int count, int64_t offset, int flags)',
    );
    this.#preadv2 = libc.func(
      'long preadv2(int fd, uint8_t *vector, int count, int64_t offset, int flags)',
    );
    this.#lseek = libc.func('int64_t lseek(int fd, int64_t offset, int whence)');
    this.#memcpy = libc.func('void *memcpy(uintptr_t target, uintptr_t source, size_t length)');
    this.#socket = libc.func('int socket(int family, int type, int protocol)');
    this.#bind = libc.func('int bind(int fd, uint8_t *address, uint32_t length)');
    this.#connect = libc.func('int connect(int fd, uint8_t *address, uint32_t length)');
    this.#listen = libc.func('int listen(int fd, int backlog)');
    this.#getsockname = libc.func(
      'int getsockname(int fd, _Out_ uint8_t *address, _Inout_ uint8_t *length)',
    );
    this.#setsockopt = libc.func(
      'int setsockopt(int fd, int level, int option, uint8_t *value, uint32_t length)',
    );
    this.#getsockopt = libc.func(
      'int getsockopt(int fd, int level, int option, _Out_ uint8_t *value, _Inout_ uint8_t *length)',
    );
    this.#fcntl = libc.func('int fcntl(int fd, int command, long argument)');
    this.#flock = libc.func('int flock(int fd, int operation)');
    this.#shutdown = libc.func('int shutdown(int fd, int how)');
    this.#close = libc.func('int close(int fd)');
    this.#exit = libc.func('void _exit(int status)');
    this.#fallocate = libc.func('int fallocate(int fd, int mode, int64_t offset, int64_t length)');
    this.#pipe2 = libc.func('int pipe2(_Out_ uint8_t *fds, int flags)');
    this.#ioctl = libc.func('int ioctl(int fd, unsigned long request, _Inout_ uint8_t *argument)');
    this.#copyFileRange = libc.func(
      'long copy_file_range(int source, _Inout_ uint8_t *sourceOffset, int destination, _Inout_ uint8_t *destinationOffset, size_t length, unsigned int flags)',
    );
  }

  /** Loads koffi and the C library; throws MapperError with the reason why that cannot be. */
  static async load(): Promise<System> {
    if (process.platform !== 'linux')
      throw new Error(`io_uring needs Linux, not ${process.platform}`);
    try {
      const koffi = (await import('koffi')).default;
      return new System(koffi, koffi.load(null));
    } catch (error) {
      throw new Error(`koffi cannot be loaded: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }

  /** A result of the C library as the kernel would give it. */
  #result(result: number): number {
    return result < 0 ? -this.#koffi.errno() : result;
  }

  /** Address of the first byte. */
  addressOf(bytes: Uint8Array): number {
    return Number(this.#koffi.address(bytes));
  }

  uringSetup(entries: number, params: Uint8Array): number {
    return this.#result(this.#setup(SYS_IO_URING_SETUP, entries, params));
  }

  uringEnter(
    fd: number,
    submit: number,
    wait: number,
    flags: number,
    argument: number,
    size: number,
  ): number {
    return this.#result(this.#enter(SYS_IO_URING_ENTER, fd, submit, wait, flags, argument, size));
  }

  uringRegister(fd: number, operation: number, argument: Uint8Array, count: number): number {
    return this.#result(this.#register(SYS_IO_URING_REGISTER, fd, operation, argument, count));
  }

  /** Maps part of a descriptor and shows it as a buffer; it stays mapped until the process ends. */
  map(fd: number, offset: number, length: number): ArrayBuffer {
    const pointer = this.#mmap(null, length, PROT_READ_WRITE, MAP_SHARED_POPULATE, fd, offset);
    const address = BigInt(this.#koffi.address(pointer) as bigint);
    assert(address !== 0n && address !== 0xffff_ffff_ffff_ffffn, 'mmap of the ring succeeds');
    return this.#koffi.view(pointer, length) as ArrayBuffer;
  }

  pread(fd: number, address: number, length: number, offset: number): number {
    for (;;) {
      const result = this.#result(this.#pread(fd, address, length, offset));
      if (result !== -EINTR) return result;
    }
  }

  pwrite(fd: number, address: number, length: number, offset: number): number {
    for (;;) {
      const result = this.#result(this.#pwrite(fd, address, length, offset));
      if (result !== -EINTR) return result;
    }
  }

  /** One-entry preadv2 or pwritev2 with flags such as RWF_NOWAIT. */
  transferWithFlags(
    write: boolean,
    fd: number,
    bytes: Uint8Array,
    offset: number,
    flags: number,
  ): number {
    const vector = new Uint8Array(16);
    const view = new DataView(vector.buffer);
    view.setBigUint64(0, BigInt(this.addressOf(bytes)), true);
    view.setBigUint64(8, BigInt(bytes.length), true);
    const call = write ? this.#pwritev2 : this.#preadv2;
    return this.#result(call(fd, vector, 1, offset, flags));
  }

  lseek(fd: number, offset: number, whence: number): number {
    return this.#result(this.#lseek(fd, offset, whence));
  }

  fallocate(fd: number, mode: number, offset: number, length: number): number {
    return this.#result(this.#fallocate(fd, mode, offset, length));
  }

  memcpy(target: number, source: number, length: number): void {
    this.#memcpy(target, source, length);
  }

  socket(family: number, type: number, protocol = 0): number {
    return this.#result(this.#socket(family, type, protocol));
  }

  bind(fd: number, address: Uint8Array): number {
    return this.#result(this.#bind(fd, address, address.length));
  }

  connect(fd: number, address: Uint8Array): number {
    return this.#result(this.#connect(fd, address, address.length));
  }

  listen(fd: number, backlog: number): number {
    return this.#result(this.#listen(fd, backlog));
  }

  /** The address a socket is bound to, as a struct sockaddr of at most 128 bytes. */
  socketName(fd: number): Uint8Array {
    const address = new Uint8Array(128);
    const length = new Uint8Array(4);
    const view = new DataView(length.buffer);
    view.setUint32(0, address.length, true);
    check(this.#result(this.#getsockname(fd, address, length)), 'getsockname');
    return address.subarray(0, view.getUint32(0, true));
  }

  /** The value of an int option, or a negative errno: options have no negative values. */
  socketOption(fd: number, level: number, option: number): number {
    const value = new Uint8Array(4);
    const length = new Uint8Array([value.length, 0, 0, 0]);
    const result = this.#result(this.#getsockopt(fd, level, option, value, length));
    return result < 0 ? result : new DataView(value.buffer).getInt32(0, true);
  }

  /** Operations on the socket wait again, whoever had them not to. */
  clearNonBlocking(fd: number): void {
    const flags = check(this.#result(this.#fcntl(fd, F_GETFL, 0)), 'F_GETFL');
    check(this.#result(this.#fcntl(fd, F_SETFL, flags & ~O_NONBLOCK)), 'F_SETFL');
  }

  /** LOCK_SH or LOCK_EX without waiting; 0, or a negative errno. */
  flock(fd: number, exclusive: boolean): number {
    return this.#result(this.#flock(fd, (exclusive ? 2 : 1) | LOCK_NB));
  }

  /** Sets an int option. */
  setSocketOption(fd: number, level: number, option: number, value: number): number {
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setInt32(0, value, true);
    return this.#result(this.#setsockopt(fd, level, option, bytes, bytes.length));
  }

  /** Ends the process at once, whatever its threads are in: nothing is run, nobody waited for. */
  exitNow(status: number): void {
    this.#exit(status);
  }

  /** Both directions. */
  shutdown(fd: number): number {
    return this.#result(this.#shutdown(fd, 2));
  }

  close(fd: number): void {
    this.#close(fd);
  }

  /** [read end, write end], closed on exec. */
  pipe(): [number, number] {
    const fds = new Uint8Array(8);
    const O_CLOEXEC = 0o2000000;
    check(this.#result(this.#pipe2(fds, O_CLOEXEC)), 'pipe2');
    const view = new DataView(fds.buffer);
    return [view.getInt32(0, true), view.getInt32(4, true)];
  }

  #setArgument(at: number, value: number): void {
    this.#arguments.setUint32(at, value % 2 ** 32, true);
    this.#arguments.setUint32(at + 4, Math.floor(value / 2 ** 32), true);
  }

  copyFileRange(
    source: number,
    sourceOffset: number,
    destination: number,
    destinationOffset: number,
    length: number,
  ): number {
    const first = this.#firstArgument;
    const second = this.#secondArgument;
    for (;;) {
      this.#setArgument(0, sourceOffset);
      this.#setArgument(8, destinationOffset);
      const result = this.#result(
        this.#copyFileRange(source, first, destination, second, length, 0),
      );
      if (result !== -EINTR) return result;
    }
  }

  /** The destination shares the source's blocks. 0, or a negative errno. */
  cloneRange(
    source: number,
    sourceOffset: number,
    destination: number,
    destinationOffset: number,
    length: number,
  ): number {
    for (;;) {
      this.#setArgument(0, source);
      this.#setArgument(8, sourceOffset);
      this.#setArgument(16, length);
      this.#setArgument(24, destinationOffset);
      const result = this.#result(this.#ioctl(destination, FICLONERANGE, this.#allArguments));
      if (result !== -EINTR) return result;
    }
  }

  /** An ioctl that fills in up to 8 bytes; the number, or a negative errno. */
  ioctlNumber(fd: number, request: number, bytes: 4 | 8): number {
    const argument = new Uint8Array(8);
    const result = this.#result(this.#ioctl(fd, request, argument));
    if (result < 0) return result;
    const view = new DataView(argument.buffer);
    return bytes === 4 ? view.getInt32(0, true) : Number(view.getBigUint64(0, true));
  }
}

/** The result, or a MapperError if it is a negative errno. */
export function check(result: number, what: string): number {
  if (result < 0) {
    const error = new MapperError(-result, what);
    throw new MapperError(-result, `${what}: ${error.code}`);
  }
  return result;
}
