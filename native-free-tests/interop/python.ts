/** Scripts for libnbd's Python module, and what they all start with. */

import { python } from './programs.js';

/** Its arguments are the engine, and URIs. */
const prelude = `
import errno, nbd, os, sys
engine = sys.argv[1]
uris = sys.argv[2:]
MiB = 1024 * 1024

def connect(uri, prepare=None):
    h = nbd.NBD()
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    if prepare is not None:
        prepare(h)
    h.connect_uri(uri)
    return h

# Without libnbd's own checks of what it is asked for.
def lax(h):
    h.set_strict_mode(0)

block = bytes((i * 7 + (i >> 8) * 13) % 256 for i in range(65521))

def pattern(length, seed):
    return (block * ((length + seed) // len(block) + 1))[seed:seed + length]

def fails(code, call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        found = error.errnum
        assert found == code, f"found {errno.errorcode.get(found)}, wanted {errno.errorcode[code]}"
        return
    raise AssertionError(f"wanted {errno.errorcode[code]}, it succeeded")

def extents(h, length, offset, flags=0):
    found = []
    def chunk(context, at, entries, error):
        assert context == nbd.CONTEXT_BASE_ALLOCATION and at == offset and error.value == 0
        found.extend(zip(entries[::2], entries[1::2]))
    h.block_status(length, offset, chunk, flags)
    return found

# For asynchronous commands: the errors of those that fail are collected.
def answered(failures):
    def done(error):
        if error.value != 0:
            failures.append(error.value)
        return 1
    return done

def finish(h):
    while h.aio_in_flight() > 0:
        h.poll(-1)
`;

/** Runs a script; rejects with what Python says when an assertion in it fails. */
export async function libnbd(engine: string, script: string, ...uris: string[]): Promise<void> {
  await python('-c', prelude + script, engine, ...uris);
}

/** What the nbdsh command does, which would take whichever Python is first in the path. */
export function nbdsh(...words: string[]): Promise<string> {
  return python('-m', 'nbd', ...words);
}
