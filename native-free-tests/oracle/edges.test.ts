/** At every edge, kernel and mapperd answer alike, and leave the same bytes in origin and COW. */

import t from 'tap';
import { eachEngine } from '../interop/harness.js';
import { requires } from '../interop/programs.js';
import { DaemonSide } from './daemon-side.js';
import type { Edge } from './edge.js';
import { edges } from './edges.js';
import { KernelSide } from './kernel-side.js';
import { withoutTexts } from './steps.js';
import { kernelPrograms } from './uml.js';

const programs = [...kernelPrograms, 'nbdcopy'];
const scriptOf = (some: readonly Edge[]): string[] => some.flatMap((edge) => edge.script);

/** Each edge's part of a transcript of them all. */
function partsOf(some: readonly Edge[], transcript: readonly string[]): Map<string, string[]> {
  const parts = new Map<string, string[]>();
  let from = 0;
  for (const { title, script } of some) {
    parts.set(title, withoutTexts(transcript.slice(from, from + script.length)));
    from += script.length;
  }
  return parts;
}

/** One boot for all engines. */
const kernel = requires(...programs) === false ? new KernelSide(t).run(scriptOf(edges)) : null;

eachEngine(t, 'edges', programs, async (t, engine) => {
  const some = edges.filter(({ trims = false }) => !trims || engine === 'uring');
  const daemon = new DaemonSide(t, engine);
  const [theirs, ours] = await Promise.all([kernel, daemon.run(scriptOf(some))]);
  const wanted = partsOf(edges, theirs ?? []);
  for (const [title, found] of partsOf(some, ours)) t.strictSame(found, wanted.get(title), title);
});
