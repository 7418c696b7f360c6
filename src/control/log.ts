/**
 * The daemon's log, to standard error: a line for people on a terminal,
 *
 *   12:34:56.789 warn  device removed by force  device=vol0
 *
 * and one JSON object a line otherwise (pino's, with the level as a word). Written synchronously:
 * the last line before an exit is the one that matters.
 */

import { writeSync } from 'node:fs';
import { type Logger, pino } from 'pino';
import type { LogLevel } from '../base/log-level.js';

export interface LogTarget {
  write(line: string): void;
}

export function createLog(level: LogLevel, human: boolean, target: LogTarget): Logger {
  return pino(
    {
      level,
      base: null,
      formatters: { level: (label) => ({ level: label }) },
      timestamp: () => `,"time":"${new Date().toISOString()}"`,
    },
    human ? { write: (line) => target.write(humanLine(line)) } : target,
  );
}

/** Standard error. A line that cannot be written is lost: there is nowhere left to say so. */
export const standardError: LogTarget = { write: (line) => writeTo(2, line) };

/** Standard output, without its stream: that would make a pipe one that nobody else can wait on. */
export const standardOutput: LogTarget = { write: (text) => writeTo(1, text) };

function writeTo(fd: number, text: string): void {
  let rest = Buffer.from(text);
  for (let attempts = 0; rest.length > 0 && attempts < attemptsMost; attempts++) {
    try {
      rest = rest.subarray(writeSync(fd, rest));
    } catch (error) {
      // A full pipe whose reader is slow; anything else will not get better.
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') return;
      Atomics.wait(pause, 0, 0, 1);
    }
  }
}

/** How often a full pipe is tried, a millisecond apart: whoever reads it has a second. */
const attemptsMost = 1000;
const pause = new Int32Array(new SharedArrayBuffer(4));

/** One of pino's lines as a person reads it. */
export function humanLine(line: string): string {
  const { time, level, msg, ...fields } = JSON.parse(line) as Record<string, unknown>;
  const clock = String(time).slice(11, 23);
  const words = Object.entries(fields).map(([key, value]) => `${key}=${humanValue(value)}`);
  const tail = words.length === 0 ? '' : `  ${words.join(' ')}`;
  return `${clock} ${String(level).padEnd(5)} ${String(msg ?? '')}${tail}\n`;
}

function humanValue(value: unknown): string {
  if (typeof value !== 'string') return JSON.stringify(value);
  return /^[^\s"=\p{Cc}]+$/u.test(value) ? value : JSON.stringify(value);
}
