/**
 * The moments at which power is cut: every flush and FUA mark of a log, or so many of them, evenly
 * spread. At one half of them the disk has what the mark stands behind and no more; at the others
 * it is some records later, and of the writes since then any may have reached the medium.
 */

import { Replay } from './replay.js';
import { flag, type LogRecord, told, type WriteLogFile } from './write-log.js';

export interface Cuts {
  readonly bytes: number;
  /** The mark behind which it begins. */
  readonly from: string;
  /** Flushes and FUA writes that are looked at, at the most. */
  readonly most: number;
  /** What the medium writes as a whole. */
  readonly pieceBytes: number;
  readonly random: (limit: number) => number;
}

export interface State {
  readonly disk: Buffer;
  /** The name of the latest mark. */
  readonly mark: string;
  readonly when: string;
}

function seals({ flags }: LogRecord): boolean {
  return (flags & (flag.flush | flag.fua)) !== 0n;
}

function isMark({ flags }: LogRecord): boolean {
  return (flags & flag.mark) !== 0n;
}

/** How many flush and FUA marks there are behind a mark. */
export function countSeals({ records }: WriteLogFile, from: string): number {
  const first = records.findIndex((record) => told(record) === `mark ${from}`);
  return records.slice(first + 1).filter(seals).length;
}

export function* cutsOf(log: WriteLogFile, cuts: Cuts): Generator<State> {
  const { bytes, from, most, pieceBytes, random } = cuts;
  const { records } = log;
  const count = countSeals(log, from);
  const replay = new Replay(log, bytes);
  replay.toMark(from);
  let at = records.findIndex((record) => told(record) === `mark ${from}`) + 1;
  let mark = from;
  let sealed = 0;
  const step = (): LogRecord | null => {
    const record = replay.step();
    if (record === null) return null;
    at++;
    if (isMark(record)) mark = record.name;
    return record;
  };
  for (let record = step(); record !== null; record = step()) {
    if (!seals(record)) continue;
    const last = Math.floor((sealed * most) / count);
    sealed++;
    if (count > most && Math.floor((sealed * most) / count) === last) continue;
    let further = 0;
    const isNext = (record?: LogRecord): boolean => record === undefined || seals(record);
    while (!isNext(records[at + further])) further++;
    further = random(2) === 0 ? 0 : random(further + 1);
    const what = `${told(record)}, and ${further} of what follows`;
    for (let i = 0; i < further; i++) step();
    const when = `flush or FUA ${sealed} of ${count}, ${what}`;
    yield { disk: replay.cut(random, pieceBytes), mark, when };
  }
}
