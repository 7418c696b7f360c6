/** What /proc tells of a process: the processor time and the memory it takes. */

import { readFile } from 'node:fs/promises';

/** Clock ticks of a second: USER_HZ, fixed for user space on every architecture that Node has. */
const ticksPerSecond = 100;

/**
 * Seconds of processor time, user and system, of a process with all of its threads: those that
 * have ended are in it, and so are the kernel's io_uring workers, which are threads of the process.
 */
export async function cpuSeconds(pid: number): Promise<number> {
  return parseCpuTicks(await readFile(`/proc/${pid}/stat`, 'utf8')) / ticksPerSecond;
}

/** utime + stime, fields 14 and 15. The second field is a name that may hold blanks and `)`. */
export function parseCpuTicks(stat: string): number {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  const ticks = Number(fields[11]) + Number(fields[12]);
  if (!Number.isFinite(ticks)) throw new Error(`read processor time: found "${stat.trim()}"`);
  return ticks;
}

/** Resident memory in megabytes (millions of bytes). */
export async function residentMegabytes(pid: number): Promise<number> {
  return parseMemory(await readFile(`/proc/${pid}/status`, 'utf8'), 'VmRSS');
}

/** The most that has been resident since the process began. */
export async function peakMegabytes(pid: number): Promise<number> {
  return parseMemory(await readFile(`/proc/${pid}/status`, 'utf8'), 'VmHWM');
}

/** These are in units of 1024 bytes, whatever "kB" says. */
export function parseMemory(status: string, field: 'VmRSS' | 'VmHWM'): number {
  const match = new RegExp(`^${field}:\\s+([0-9]+) kB$`, 'm').exec(status);
  if (match === null) throw new Error(`read resident memory: found no ${field}`);
  return (Number(match[1]) * 1024) / 1e6;
}
