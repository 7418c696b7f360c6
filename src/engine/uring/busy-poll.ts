/**
 * Whether the engine's thread goes to sleep at once when there is nothing to do, or first looks for
 * a while whether something comes. A thread that sleeps has to be woken, which costs whoever brings
 * the next request as much as it costs the thread: a few microseconds, and some twenty in a virtual
 * machine, whose processors are given back to the host meanwhile. Looking costs processor time.
 *
 * So it looks only while looking would have helped: a few sleeps on end that were over within about
 * the limit turn it on, and each time it looked in vain it does so half as long, until it gives up.
 *
 *   window:  0 --short sleeps--> limit --in vain--> limit/2 ... --in vain--> 0
 *
 * QEMU's event loops (poll-max-ns) and KVM (halt_poll_ns) do the same. All times are milliseconds.
 */

/** A window shorter than a few looks is none. */
const leastWindow = 0.004;
/** On end, before it looks. */
const shortSleeps = 4;
/** What is a short sleep, in limits: half of it may be the time that waking takes. */
const shortLimits = 2;

export class BusyPoll {
  /** How long to look before the next sleep. */
  window = 0;
  readonly #limit: number;
  #short = 0;

  /** `limit`: the longest time to look; 0: never. */
  constructor(limit: number) {
    this.#limit = limit;
  }

  /** It slept, after looking or not, and waited so long in all. */
  slept(milliseconds: number): void {
    if (milliseconds > this.#limit * shortLimits) {
      this.#short = 0;
      this.window /= 2;
      if (this.window < leastWindow) this.window = 0;
    } else if (++this.#short >= shortSleeps) {
      this.window = this.#limit;
    }
  }
}
