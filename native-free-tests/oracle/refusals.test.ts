/**
 * What the kernel refuses we refuse, for the same reason: our text has the kernel's in it. And the
 * targets' versions, by which tools tell what is there, are the kernel's.
 */

import t from 'tap';
import { eachEngine } from '../interop/harness.js';
import { requires } from '../interop/programs.js';
import { DaemonSide } from './daemon-side.js';
import { KernelSide } from './kernel-side.js';
import { lines } from './refusals.js';
import { withoutTexts } from './steps.js';
import { kernelPrograms } from './uml.js';

const script = [...lines, 'targets'];
const skip = requires(...kernelPrograms);
/** One boot for all engines. */
const kernel = skip === false ? new KernelSide(t).run(script) : null;

/** The text of a refusal, empty for another answer. */
function textOf(line: string): string {
  return / -> E[A-Z0-9]+ \[(.*)\]$/.exec(line)?.[1] ?? '';
}

/** The snapshot targets of a line of all targets. */
function snapshotTargets(line: string): string[] {
  const all = line.replace('targets -> ', '').split('; ');
  const words = all.map((target) => target.split(/ +/).join(' '));
  return words.filter((target) => target.startsWith('snapshot')).sort();
}

eachEngine(t, 'refusals', kernelPrograms, async (t, engine) => {
  const daemon = new DaemonSide(t, engine);
  const [told, ours] = await Promise.all([kernel, daemon.run(script)]);
  const theirs = told ?? [];
  t.strictSame(withoutTexts(ours).slice(0, -1), withoutTexts(theirs).slice(0, -1));
  for (const [at, line] of theirs.entries()) {
    const [wanted, found] = [textOf(line), textOf(ours[at] as string)];
    // The text of a line that is too long for its device has the device's number in it.
    if (wanted === '' || wanted.includes('too small for target')) continue;
    t.ok(found.includes(wanted), `${wanted} (${lines[at]})`, { found });
  }
  const versions = snapshotTargets(theirs.at(-1) as string);
  t.equal(versions.length, 3);
  t.strictSame(snapshotTargets(ours.at(-1) as string), versions, 'versions');
});
