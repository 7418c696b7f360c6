/**
 * fio as writer and judge: it writes with a checksum in every block and keeps a record of its own
 * of what was answered; when the server has gone it saves that record, and later reads back what
 * stands in it, and no more.
 *
 *   write ---> (the server is killed) ---> state file ---> verify, as often as is wanted
 */

import { mkdirSync, readdirSync } from 'node:fs';
import { launch, type Output, outputOf, run } from '../interop/programs.js';

const blockBytes = 4096;
const depth = 16;

interface Side {
  readonly total_ios: number;
}

interface Report {
  readonly jobs: readonly [{ readonly read: Side; readonly write: Side }];
}

/** fio prints messages before and behind its report. */
function reportOf({ stdout }: Output): Report['jobs'][0] {
  const text = stdout.slice(stdout.indexOf('{'), stdout.lastIndexOf('}') + 1);
  try {
    return (JSON.parse(text) as Report).jobs[0];
  } catch {
    throw new Error(`fio gave no report:\n${stdout}`);
  }
}

export class FioWrites {
  readonly #directory: string;
  readonly #job: readonly string[];
  /** How many writes were sent; resolves when fio has saved its state. */
  readonly ended: Promise<number>;

  private constructor(directory: string, job: readonly string[], uri: string) {
    this.#directory = directory;
    this.#job = job;
    this.ended = this.#run(uri);
    // Heard of by whoever waits for it.
    this.ended.catch(() => {});
  }

  /** Writes at random to the first `bytes` of an export, each block once, until the server dies. */
  static start(directory: string, uri: string, bytes: number, seed: number): FioWrites {
    mkdirSync(directory, { recursive: true });
    const how = ['--rw=randwrite', `--bs=${blockBytes}`, `--size=${bytes}`];
    const checks = ['--verify=crc32c', '--fsync=16', `--randseed=${seed}`];
    const job = ['--name=job', '--ioengine=nbd', '--output-format=json', ...how, ...checks];
    return new FioWrites(directory, job, uri);
  }

  async #run(uri: string): Promise<number> {
    // Its record is of the latest so many requests, so none may be under way for longer than that:
    // it sends so many, and waits until all are answered.
    const how = [`--iodepth=${depth}`, `--iodepth_batch=${depth}`, '--do_verify=0'];
    const batch = [`--iodepth_batch_complete_min=${depth}`, '--verify_state_save=1'];
    const words = [...this.#job, `--uri=${uri}`, ...how, ...batch];
    const child = launch('fio', words, this.#directory);
    child.stdin?.end();
    const output = await outputOf(child, 'fio', 60);
    const { write } = reportOf(output);
    const saved = readdirSync(this.#directory).some((name) => name.endsWith('.state'));
    if (!saved) throw new Error(`fio saved no state:\n${output.stdout}${output.stderr}`);
    return write.total_ios;
  }

  /**
   * Reads what the state says was answered, in the order in which it was sent and up to the first
   * that was not, and returns how many blocks that is. Throws what fio finds.
   */
  async verify(uri: string): Promise<number> {
    const sent = await this.ended;
    // One at a time: it counts answers to know where it is in its record, which is to stay.
    const state = ['--verify_state_load=1', '--verify_state_save=0'];
    const how = ['--iodepth=1', '--verify_only=1', ...state];
    const words = [...this.#job, `--uri=${uri}`, ...how];
    const options = { directory: this.#directory, limitSeconds: 60 };
    const output = await run('fio', words, options);
    if (output.code !== 0) {
      const [said] = output.stdout.split('{');
      throw new Error(`fio does not find what it wrote: ${said?.trim()}\n${output.stderr}`);
    }
    const { total_ios: verified } = reportOf(output).read;
    if (verified + 2 * depth < sent) throw new Error(`fio read ${verified} blocks of ${sent}`);
    return verified;
  }
}
