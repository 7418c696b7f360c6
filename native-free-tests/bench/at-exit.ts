/**
 * What must not be left behind however the program ends: processes, mounts, directories. Each part
 * clears up by itself, and asynchronously, when all is well or on a signal; this is for what is
 * left when an exception or a second signal ends the program at once.
 */

const undos = new Set<() => void>();

process.on('exit', () => {
  for (const undo of [...undos].reverse()) {
    try {
      undo();
    } catch {
      // The others still have to be undone.
    }
  }
});

/** Runs `undo`, which must be synchronous, at the end, unless it is called off. */
export function atExit(undo: () => void): { callOff(): void } {
  undos.add(undo);
  return { callOff: () => void undos.delete(undo) };
}
