/**
 * The language in which a kernel and a daemon are told the same. A script is lines; running it
 * gives its transcript: for each line that line and what came of it. Two sides that are alike have
 * the same transcript. Sectors are 512 bytes; in a table `@NAME` is a disk, `dm:NAME` another
 * device.
 *
 *   disk NAME SECTORS                  makes a disk of zeroes
 *   grow NAME SECTORS                  makes such a disk longer
 *   pour NAME SECTOR COUNT SEED        writes to a disk past all devices
 *   poke NAME HEX                      makes these bytes and zeroes a disk's first sector
 *   create NAME TABLE                  makes a device; "; " in TABLE separates lines
 *   load NAME TABLE                    into the inactive slot
 *   suspend NAME, resume NAME, remove NAME
 *   status NAME, table NAME            whole lines, disks by their names
 *   write NAME SECTOR COUNT SEED       bytes of the stream SEED, which tell where they belong
 *   discard NAME SECTOR COUNT, zero NAME SECTOR COUNT, flush NAME
 *   read NAME                          SHA-256 of all of it (a device, or a disk)
 *   peek NAME SECTOR COUNT             SHA-256 of a part
 *   until NAME PATTERN                 waits until the status matches
 *   targets                            what there is, with versions
 *   together ... done                  the writes between them, several at a time
 *   poweroff                           as a power cut; nothing can follow. Behind "together" in the
 *                                      place of "done": when a quarter of the writes have ended
 *
 * An answer is "ok", a value, or an error: its name, and in brackets its text.
 */

import { createHash } from 'node:crypto';

export const SECTOR = 512;

/**
 * Stream `seed` from a sector on. A sector is a digest over and over, so that no two sectors of any
 * two streams are alike; the guest's program makes the same.
 */
export function fillStream(bytes: Buffer, sector: number, seed: number): Buffer {
  for (let at = 0; at < bytes.length; at += SECTOR) {
    const digest = createHash('sha256')
      .update(`${seed} ${sector + at / SECTOR}`)
      .digest();
    bytes.fill(digest, at, at + SECTOR);
  }
  return bytes;
}

export function digestOf(bytes: Buffer): string {
  return createHash('sha256').update(bytes).digest('hex').slice(0, 32);
}

/** One line of a transcript. */
export function answered(line: string, answer: string): string {
  return `${line} -> ${answer}`;
}

/** How many lines a script's transcript has. */
export function transcriptLength(script: readonly string[]): number {
  return script.filter((line) => !/^(together|done|poweroff)$/.test(line)).length;
}

/** The transcript without the texts of errors, which the two sides word differently. */
export function withoutTexts(transcript: readonly string[]): string[] {
  return transcript.map((line) => line.replace(/ -> (E[A-Z0-9]+) \[.*\]$/, ' -> $1'));
}

/** What the transcript says behind a line; the line must be in it once. */
export function answerTo(transcript: readonly string[], line: string): string {
  const found = transcript.filter((entry) => entry.startsWith(`${line} -> `));
  if (found.length !== 1) throw new Error(`"${line}" is ${found.length} times in the transcript`);
  return (found[0] as string).slice(line.length + 4);
}

/** Anything that can carry out a script. */
export interface Side {
  readonly name: string;
  run(script: readonly string[]): Promise<string[]>;
}
