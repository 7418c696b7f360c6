/**
 * An ext4 of the kernel's over a log of writes. What is in it after a power cut at any flush is
 * looked at without mounting: e2fsck replays the journal, debugfs reads the files.
 *
 *   ext4 - loop - FUSE - nbdfuse - NBD - mapperd: log-writes - disk.img, disk.log
 */

import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Test } from 'tap';
import { random as randomFrom } from '../contract/pattern.js';
import { Daemon, type EngineName, MiB, Scratch, sectorsOf } from '../interop/harness.js';
import { launch, outputOf, run, succeed } from '../interop/programs.js';
import { mount, unmount } from './mounts.js';
import { countSeals, cutsOf } from './states.js';
import { whileLog } from './write-log.js';

export const ext4Programs = ['nbdfuse', 'nbdcopy', 'mkfs.ext4', 'e2fsck', 'debugfs'];
/** The mark behind which there is a file system. */
const made = 'made';
const bytes = 16 * MiB;
/** ext4 relies on its blocks being written whole. */
const blockBytes = 4096;
const { CI } = process.env;
/** Flush and FUA marks that are looked at, at the most; each takes two tenths of a second. */
const cutsMost = CI === 'true' ? 100 : 12;

/** Reads a file of a file system as it was then; null: there is none. */
export type ReadThen = (path: string) => Promise<Buffer | null>;

export class LoggedExt4 {
  /** Where it is mounted. */
  readonly folder: string;
  readonly #files: Scratch;
  readonly #daemon: Daemon;
  readonly #fuse: string;
  readonly #fuseEnded: Promise<unknown>;

  private constructor(
    files: Scratch,
    daemon: Daemon,
    folder: string,
    fuse: string,
    fuseEnded: Promise<unknown>,
  ) {
    this.#files = files;
    this.#daemon = daemon;
    this.folder = folder;
    this.#fuse = fuse;
    this.#fuseEnded = fuseEnded;
  }

  /** It goes with the test; needs root. */
  static async make(t: Test, engine: EngineName): Promise<LoggedExt4> {
    const files = new Scratch(t);
    const image = files.sparse('disk.img', bytes);
    const log = files.sparse('disk.log', 2 ** 30);
    const devices = { disk: `0 ${sectorsOf(bytes)} log-writes ${image} ${log}` };
    const daemon = await Daemon.start({ engine, devices });
    t.teardown(() => daemon.stop());
    const first = files.sparse('first.img', bytes);
    const options = ['-b', `${blockBytes}`, '-E', 'lazy_itable_init=0'];
    await succeed('mkfs.ext4', ['-q', '-F', ...options, first]);
    // Through the daemon, so that the log begins with it.
    await succeed('nbdcopy', ['--flush', first, daemon.uri('disk')]);
    await daemon.call('message', { name: 'disk', sector: 0, words: ['mark', made] });

    const fuse = files.file('fuse');
    mkdirSync(fuse);
    const server = launch('nbdfuse', ['-C', '4', `${fuse}/disk`, daemon.uri('disk')]);
    const fuseEnded = outputOf(server, 'nbdfuse', 250);
    let hasEnded = false;
    fuseEnded
      .catch(() => {})
      .finally(() => {
        hasEnded = true;
      });
    t.teardown(() => run('umount', ['-q', '-l', fuse]));
    while (!existsSync(`${fuse}/disk`)) {
      if (hasEnded) throw new Error(`nbdfuse: ${JSON.stringify(await fuseEnded)}`);
      await sleep(20);
    }
    const words = ['-t', 'ext4', '-o', 'loop', `${fuse}/disk`];
    const folder = await mount(t, files, 'mounted', ...words);
    return new LoggedExt4(files, daemon, folder, fuse, fuseEnded);
  }

  /** Puts a mark into the log. */
  async mark(name: string): Promise<void> {
    await this.#daemon.call('message', { name: 'disk', sector: 0, words: ['mark', name] });
  }

  /** It is mounted no more, and the log is whole. */
  async end(): Promise<void> {
    await unmount(this.folder);
    await succeed('umount', [this.#fuse]);
    await this.#fuseEnded;
    await this.#daemon.untilUnused('disk');
    const { code, signal } = await this.#daemon.stop();
    if (code !== 0) throw new Error(`the daemon ended with ${signal ?? `code ${code}`}`);
  }

  /**
   * Cuts the power at every flush and FUA mark, or so many of them, and each time has e2fsck look
   * at the file system and then `body` at files. `mark` is the name of the latest mark.
   */
  async eachCut(
    t: Test,
    body: (read: ReadThen, mark: string, when: string) => Promise<void>,
  ): Promise<void> {
    const seed = Date.now() % 2 ** 31;
    await whileLog(this.#files.file('disk.log'), async (log) => {
      const random = randomFrom(seed);
      const cuts = { bytes, from: made, most: cutsMost, pieceBytes: blockBytes, random };
      let count = 0;
      for (const { disk, mark, when } of cutsOf(log, cuts)) {
        count++;
        try {
          const path = this.#files.file('state.img');
          writeFileSync(path, disk);
          await checkFileSystem(path);
          await body((name) => this.#read(path, name), mark, when);
        } catch (error) {
          const text = error instanceof Error ? error.message : `${error}`;
          throw new Error(`seed ${seed}, ${when}, behind mark "${mark}": ${text}`);
        }
      }
      const all = countSeals(log, made);
      if (count < Math.min(all, cutsMost)) throw new Error(`${count} cuts of ${all}`);
      t.comment(`counted: ${count} of ${all} power cuts, ext4`);
      t.pass(`clean, and as it should be, at ${count} of ${all} flush and FUA marks`);
    });
  }

  async #read(path: string, name: string): Promise<Buffer | null> {
    const into = this.#files.file('dumped');
    rmSync(into, { force: true });
    await succeed('debugfs', ['-R', `dump ${name} ${into}`, path]);
    return existsSync(into) ? readFileSync(into) : null;
  }
}

/** Throws unless the file system is clean once its journal is replayed. */
export async function checkFileSystem(path: string): Promise<void> {
  const replayed = await run('e2fsck', ['-p', path]);
  // 1: something was repaired, which -p does for what a crash leaves: the journal, orphaned files.
  if (replayed.code !== 0 && replayed.code !== 1) {
    throw new Error(`e2fsck -p says ${replayed.stdout}${replayed.stderr}`);
  }
  const checked = await run('e2fsck', ['-f', '-n', path]);
  if (checked.code !== 0) throw new Error(`e2fsck says ${checked.stdout}`);
}
