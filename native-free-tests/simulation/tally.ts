/**
 * What has been done in a simulation, counted as somebody would who uses the daemon: what disks,
 * network and the daemon do with it inside is not counted, nor are steps that only let time pass or
 * find nothing to do, nor what the simulator reads to look at a daemon that has started anew.
 */

export class Tally {
  /** Requests that clients have sent. */
  requests = 0;
  /** Commands of control clients. */
  commands = 0;
  /** Daemons killed, ended or cut off from the power, with the next one started and looked at. */
  restarts = 0;
  /** The same beside the world that goes on: what the disks held at one moment was tried out. */
  probes = 0;
  /** Virtual time. */
  seconds = 0;

  get operations(): number {
    return this.requests + this.commands + this.restarts + this.probes;
  }

  add(other: Tally): void {
    this.requests += other.requests;
    this.commands += other.commands;
    this.restarts += other.restarts;
    this.probes += other.probes;
    this.seconds += other.seconds;
  }

  toString(): string {
    const { operations, requests, commands, restarts, probes, seconds } = this;
    const parts = [
      `${requests} requests`,
      `${commands} commands`,
      `${restarts} restarts`,
      `${probes} crashes tried beside`,
    ];
    const time = `${Math.round(seconds)} simulated seconds`;
    return `${operations} operations (${parts.join(', ')}) in ${time}`;
  }
}
