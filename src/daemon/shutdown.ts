/**
 * The end of the data plane, and what to do when it does not come: a disk may hang for ever, and
 * the daemon must not. After a while it logs what it waits for, and ends without it.
 */

import { ETIME } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { argumentTextLength, hangingMilliseconds } from '../base/limits.js';
import type { Log } from '../base/log.js';
import type { Catalogue } from '../control/catalogue.js';
import { readCounters } from '../device/counters.js';
import type { Hanging } from '../queue/commands.js';
import type { QueueCalls } from '../queue/queue.js';

/** Nothing came within the time. */
const late = Symbol('late');

async function within<T>(milliseconds: number, work: Promise<T>): Promise<T | typeof late> {
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<typeof late>((resolve) => {
    timer = setTimeout(() => resolve(late), milliseconds);
  });
  try {
    return await Promise.race([work, over]);
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Waits for the end of all that is in flight, so long and no longer (0: for ever). Throws
 * MapperError ETIME, when what hangs has been logged.
 */
export async function endWithin(
  milliseconds: number,
  ending: Promise<unknown>,
  queue: QueueCalls,
  catalogue: Pick<Catalogue, 'names' | 'counters' | 'known'>,
  log: Log,
): Promise<void> {
  if (milliseconds === 0) {
    await ending;
    return;
  }
  if ((await within(milliseconds, ending)) !== late) return;
  // It may end later; whatever it says then, nobody is there to hear it.
  ending.catch(() => {});
  const found = await within(hangingMilliseconds, queue.call('hanging', {})).catch(messageOf);
  const stage = typeof found === 'object' ? found.stage : 'the queue thread, which does not answer';
  for (const device of typeof found === 'object' ? found.devices : byCounters(catalogue)) {
    const { name, inFlight, flushing } = device;
    const requests = `${inFlight} ${inFlight === 1 ? 'request' : 'requests'} in flight`;
    const what = flushing ? `its last flush, ${requests}` : requests;
    const table = catalogue.known(name)?.live ?? '';
    const fields = { device: name, inFlight, table: table.slice(0, 4 * argumentTextLength) };
    log.error(fields, `device "${name}" hangs: ${what}`);
  }
  const text = `not ended after ${milliseconds} ms: still waiting for ${stage}`;
  throw new MapperError(ETIME, text);
}

/** From shared memory: the thread may be in a system call that does not return. */
function byCounters(catalogue: Pick<Catalogue, 'names' | 'counters'>): Hanging['devices'] {
  return catalogue.names().flatMap((name) => {
    const counters = catalogue.counters(name);
    const inFlight = counters === null ? 0 : readCounters(counters).inFlight;
    return inFlight === 0 ? [] : [{ name, inFlight, flushing: false }];
  });
}
