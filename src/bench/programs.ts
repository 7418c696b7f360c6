/** fio as a child process, and what it can do here. */

import { spawn } from 'node:child_process';
import { EINTR, EIO, ENOENT } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { type FioReport, figuresOf, parseFioOutput } from './fio-output.js';

const installAdvice = 'on Debian: apt-get install fio';
/** How fio gets at a file, the best first; the last waits for each I/O, whatever the depth. */
const fileEngines = ['io_uring', 'libaio', 'psync'] as const;
export type FileEngine = (typeof fileEngines)[number];

interface Ended {
  readonly code: number | null;
  readonly output: string;
  readonly errors: string;
}

/** Runs fio to its end. Throws MapperError if there is none, or `signal` aborts. */
function fio(args: readonly string[], signal: AbortSignal): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const interrupted = (): MapperError => new MapperError(EINTR, 'interrupted');
    if (signal.aborted) {
      reject(interrupted());
      return;
    }
    // In a group of its own, so that a Ctrl-C reaches fio through the signal only.
    const child = spawn('fio', args, { stdio: ['ignore', 'pipe', 'pipe'], detached: true });
    const abort = (): void => void child.kill('SIGTERM');
    signal.addEventListener('abort', abort);
    let output = '';
    let errors = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      output += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      errors += text;
    });
    child.once('error', (error: NodeJS.ErrnoException) => {
      signal.removeEventListener('abort', abort);
      const missing = error.code === 'ENOENT';
      const text = missing
        ? `fio is not installed (${installAdvice})`
        : `run fio: ${error.message}`;
      reject(new MapperError(missing ? ENOENT : EIO, text));
    });
    child.once('close', (code) => {
      signal.removeEventListener('abort', abort);
      if (signal.aborted) reject(interrupted());
      else resolve({ code, output, errors });
    });
  });
}

/** Throws MapperError unless fio is here, and speaks NBD. */
export async function requireFio(signal: AbortSignal): Promise<void> {
  const { code, output } = await fio(['--enghelp=nbd'], signal);
  if (code === 0 && output.includes('uri')) return;
  const text = `fio has no nbd engine: wanted one that is built with libnbd (${installAdvice})`;
  throw new MapperError(ENOENT, text);
}

/** Runs a job. Throws MapperError if fio fails, or finds an error, or does no I/O. */
export async function runFio(args: readonly string[], signal: AbortSignal): Promise<FioReport> {
  const { code, output, errors } = await fio([...args, '--output-format=json'], signal);
  if (code !== 0) {
    const said = errors.trim().split('\n').slice(-3).join('; ');
    throw new MapperError(EIO, `fio ended with ${code}: ${said || output.trim().slice(0, 200)}`);
  }
  const report = parseFioOutput(output);
  // It also fails for what went wrong inside.
  figuresOf(report);
  return report;
}

/**
 * The first way in which fio reads that file here: io_uring may be forbidden, or fio built without
 * it. `direct` as in `file://...?direct=1`. Throws MapperError if none works.
 */
export async function chooseFileEngine(
  path: string,
  direct: boolean,
  signal: AbortSignal,
): Promise<FileEngine> {
  let failure: unknown;
  for (const engine of fileEngines) {
    const job = ['--name=probe', `--ioengine=${engine}`, ...fileArguments([path], direct)];
    try {
      await runFio([...job, '--rw=read', '--bs=4k', '--size=4k', '--readonly'], signal);
      return engine;
    } catch (error) {
      if (signal.aborted) throw error;
      failure = error;
    }
  }
  throw failure;
}

/** Files as they are: nothing is made, lengthened, or dropped from the page cache. */
export function fileArguments(paths: readonly string[], direct: boolean): string[] {
  const names = paths.map((path) => path.replace(/[\\:]/g, '\\$&')).join(':');
  const rules = ['--allow_file_create=0', '--invalidate=0', `--direct=${direct ? 1 : 0}`];
  return [`--filename=${names}`, ...rules];
}
