/**
 * Runs loads on places, side by side: within each round every layer gets its turn, another one
 * first each time, so that what disturbs the machine for a while disturbs all of them.
 */

import { open } from 'node:fs/promises';
import { EINTR, errnoOf } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { type FilePlace, fioArguments, type Load, type Place } from './loads.js';
import { runFio } from './programs.js';
import type { Run } from './results.js';

/** A load, and the places that are compared under it: layer by layer. */
export interface Trial {
  readonly load: Load;
  readonly places: readonly { readonly layer: string; readonly place: Place }[];
}

export interface Effort {
  /** Of each run. */
  readonly milliseconds: number;
  readonly rounds: number;
}

/** `progress` hears what is about to run. Throws MapperError. */
export async function measure(
  trials: readonly Trial[],
  { milliseconds, rounds }: Effort,
  signal: AbortSignal,
  progress: (text: string) => void,
): Promise<Run[]> {
  const runs: Run[] = [];
  const all = rounds * trials.reduce((sum, { places }) => sum + places.length, 0);
  for (const { load, places } of trials) {
    for (let round = 0; round < rounds; round++) {
      for (let turn = 0; turn < places.length; turn++) {
        const { layer, place } = places[(round + turn) % places.length] as (typeof places)[number];
        progress(`${runs.length + 1} of ${all}: ${load.name}, ${layer}`);
        const fio = await runFio(fioArguments(load, place, milliseconds), signal);
        runs.push({ case: load.name, layer, fio });
      }
    }
  }
  // Told in the order of the layers, whoever ran first.
  const order = new Map<string, number>();
  for (const { places } of trials) {
    for (const { layer } of places) if (!order.has(layer)) order.set(layer, order.size);
  }
  const rank = (run: Run): number => order.get(run.layer) ?? 0;
  return trials.flatMap(({ load }) =>
    runs.filter((run) => run.case === load.name).sort((a, b) => rank(a) - rank(b)),
  );
}

const warmBytes = 2 ** 20;

/**
 * Reads the part of each file once, so that a place that is read through the page cache is measured
 * with all of it there, whoever comes first. Throws MapperError.
 */
export async function warmUp(place: FilePlace, signal: AbortSignal): Promise<void> {
  const { paths, offsetBytes, lengthBytes } = place;
  const buffer = Buffer.allocUnsafe(warmBytes);
  for (const path of paths) {
    try {
      const file = await open(path, 'r');
      try {
        for (let at = 0; at < lengthBytes; at += warmBytes) {
          if (signal.aborted) throw new MapperError(EINTR, 'interrupted');
          const length = Math.min(warmBytes, lengthBytes - at);
          await file.read(buffer, 0, length, offsetBytes + at);
        }
      } finally {
        await file.close();
      }
    } catch (error) {
      if (error instanceof MapperError) throw error;
      const { code } = error as NodeJS.ErrnoException;
      throw new MapperError(errnoOf(code), `read "${path}": ${messageOf(error)}`);
    }
  }
}
