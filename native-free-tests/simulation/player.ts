/**
 * Carries out steps, one after the other. While a command is under way clients go on asking,
 * and at times the daemon is killed, or the power fails, in the middle of it.
 */

import * as commands from './commands.js';
import type { ClientDevice } from './device.js';
import type { FaultRule } from './faults.js';
import { volume } from './layout.js';
import { lookAtAll } from './looks.js';
import { CMD, CMD_FAST_ZERO, CMD_FUA, CMD_NO_HOLE, CMD_REQ_ONE } from './nbd-client.js';
import { mix, Random } from './random.js';
import { readAcross, readTwice, request, requestNear, writeShortly } from './requests.js';
import { depth, Stage } from './stage.js';
import type { Step, StepKind } from './steps.js';
import { World, type WorldParts } from './world.js';

/** A power cut has more to choose from. */
const losses = ['kill', 'power', 'power'] as const;

type Carrier = (stage: Stage) => Promise<void> | void;

/** What each step does, but for those that change the world as a whole. */
const carriers: Partial<Record<StepKind, Carrier>> = {
  write: (stage) => request(stage, CMD.write, 0),
  fua: (stage) => request(stage, CMD.write, CMD_FUA),
  read: (stage) => request(stage, CMD.read, 0),
  flush: (stage) => request(stage, CMD.flush, 0),
  zero: (stage) => request(stage, CMD.zero, stage.random.pick(zeroFlags)),
  trim: (stage) => request(stage, CMD.trim, stage.random.pick([0, 0, CMD_FUA])),
  status: (stage) => request(stage, CMD.status, stage.random.pick([0, CMD_REQ_ONE])),
  moments: ({ random, world }) => world.moments(random.below(40)),
  snapshot: commands.takeSnapshot,
  removeSnapshot: (stage) => commands.leaveSnapshot(stage, false),
  merge: (stage) => commands.leaveSnapshot(stage, true),
  reload: commands.reload,
  rename: commands.rename,
  suspend: commands.suspend,
  resume: (stage) => stage.resumeAll(),
  flip: commands.flipTable,
  move: commands.moveRegions,
  lookAtMove: commands.lookAtMove,
  map: (stage) => commands.mapRegions(stage, false),
  upload: (stage) => commands.mapRegions(stage, true),
  drop,
  connect,
  fault,
  mend,
  check: lookAtAll,
  probe: ({ random, world }) => world.probe(random.pick(losses)),
};

const zeroFlags = [0, 0, CMD_FUA, CMD_NO_HOLE, CMD_FAST_ZERO];

/** Steps that a crash is worth while in the middle of. */
const stirring: ReadonlySet<StepKind> = new Set<StepKind>([
  ...(['snapshot', 'removeSnapshot', 'merge', 'reload', 'rename'] as const),
  ...(['flip', 'move', 'map', 'upload'] as const),
]);

const ofRegions: ReadonlySet<StepKind> = new Set<StepKind>(['move', 'map', 'upload']);

/** A client is gone without a word. */
function drop(stage: Stage): void {
  const device = stage.anyDevice();
  if (device.clients.length > 0) device.drop(stage.random.pick(device.clients));
}

function connect(stage: Stage): void {
  const device = stage.anyDevice();
  const { change } = stage.world.family;
  if (change === null && device.clients.length < 3) device.connect();
}

function fault(stage: Stage): void {
  const { random, suspended, world } = stage;
  const { family, faults, fileSystem, layout } = world;
  if (world.busy || suspended.size > 0 || faults.rules.length > 2) return;
  const cows = [...family.snapshots.values()].map(({ facts }) => facts.cowPath);
  const disks = layout.files.map(({ path }) => path);
  const path = random.pick(random.chance(500) && cows.length > 0 ? cows : disks);
  const bytes = fileSystem.find(path)?.medium.size ?? 0;
  const first = random.chance(500) ? 0 : random.below(bytes);
  const rule: FaultRule = {
    path,
    operation: random.pick(['read', 'write', 'flush', 'space', 'trim', 'zero']),
    first,
    end: first === 0 ? bytes : Math.min(bytes, first + 4096 * random.between(1, 8)),
    perThousand: random.pick([100, 500, 1000]),
  };
  faults.rules.push(rule);
  if (world.tracing) world.note(`    ${JSON.stringify(rule)}`);
}

function mend({ world }: Stage): void {
  world.faults.rules = [];
}

/** The state directory may have no room when a command wants to write there. */
function fill({ random, world }: Stage): void {
  const { daemon, family } = world;
  family.look();
  const { state } = family;
  // A merge that ends by itself takes its time to tidy up.
  const ends = state === 'plain' && daemon.catalogue.known(`${volume}-real`) !== null;
  if (world.busy || state === 'merging' || ends || !random.chance(100)) return;
  world.fullPerThousand = random.pick([100, 400, 1000]);
}

export class Player {
  readonly #parts: WorldParts;
  readonly #random = new Random(1);
  #stage: Stage | null = null;

  constructor(parts: WorldParts) {
    this.#parts = parts;
  }

  async play({ index, kind, seed }: Step): Promise<void> {
    const random = this.#random;
    random.seed(seed);
    this.#parts.trace?.push(`#${index} ${kind}`);
    if (kind === 'world') {
      await this.end();
      this.#stage = new Stage(await World.create(seed, this.#parts), random);
      return;
    }
    const stage = this.#stage as Stage;
    const { world } = stage;
    // What disks and network do from here on does not depend on how many drew before.
    world.random.seed(mix(seed, 2));
    await this.#carryOut(stage, kind);
    if (world.inFlight < depth) {
      await world.moments(random.below(3));
      return;
    }
    // There must be room for more requests.
    if (stage.suspended.size > 0) await stage.resumeAll();
    await world.until('requests are answered', () => world.inFlight <= depth / 2);
  }

  async #carryOut(stage: Stage, kind: StepKind): Promise<void> {
    if (kind === 'kill' || kind === 'power') {
      await this.#crash(stage, kind);
    } else if (kind === 'restart') {
      mend(stage);
      await stage.world.until('commands end', () => !stage.world.busy);
      await this.#restart(stage, stage.random.pick(['kill', 'power'] as const), true);
    } else {
      const stirs = stirring.has(kind);
      if (stirs) fill(stage);
      await carriers[kind]?.(stage);
      stage.world.fullPerThousand = 0;
      if (stirs && stage.world.busy) await this.#stir(stage, kind);
    }
  }

  /**
   * A command has begun: requests come while it is carried out, and at some moment, perhaps, the
   * daemon is killed or the power fails.
   */
  async #stir(stage: Stage, kind: StepKind): Promise<void> {
    const { random, world } = stage;
    const way = random.below(10);
    const { family, switch: model } = world;
    const device = ofRegions.has(kind) ? (model?.device ?? family.volume) : family.volume;
    // Moments until the end of it all, or requests for certain.
    const end = way < 3 ? random.below(random.pick([20, 60, 200])) : 0;
    const burst = random.below(10);
    let probes = way === 3 ? random.between(1, 3) : 0;
    let passed = 0;
    for (let i = 0; i < 40; i++) {
      if (end > 0 ? passed >= end : i >= burst && !world.busy) break;
      if (world.inFlight < depth) {
        if (kind === 'flip' && random.chance(500)) readAcross(stage);
        else await requestNear(stage, device);
      }
      const moments = random.below(10);
      await world.moments(moments);
      passed += moments;
      if (probes > 0 && random.chance(300)) {
        probes--;
        await world.probe(random.pick(losses));
      }
    }
    const loss = random.pick(losses);
    if (end > 0) await this.#crash(stage, loss);
    else if (kind === 'snapshot' && way < 8) await readTwice(stage);
  }

  /**
   * In the middle of writes to one place, perhaps. And perhaps what a killed daemon has left in the
   * disk's cache is lost, when the next one has written there on the strength of it.
   */
  async #crash(stage: Stage, loss: 'kill' | 'power'): Promise<void> {
    const { random, world } = stage;
    const { volume } = world.family;
    const place = random.below(18);
    if (random.chance(500)) await this.#writeSome(stage, volume, place, random.pick([4, 15, 40]));
    await this.#restart(stage, loss, false);
    if (loss === 'power' || random.chance(400)) return;
    await this.#writeSome(stage, volume, place, 20);
    await this.#restart(stage, 'power', false);
  }

  async #writeSome(
    stage: Stage,
    device: ClientDevice,
    place: number,
    moments: number,
  ): Promise<void> {
    const { random, world } = stage;
    for (let i = random.below(5); i > 0 && world.inFlight < depth; i--) {
      writeShortly(stage, device, place);
      await world.moments(random.below(moments));
    }
  }

  async #restart(stage: Stage, loss: 'kill' | 'power', peacefully: boolean): Promise<void> {
    await stage.world.restart(loss, peacefully);
    stage.restarted();
  }

  /** Ends the world in peace, and looks at everything. */
  async end(): Promise<void> {
    const stage = this.#stage;
    if (stage === null) return;
    await lookAtAll(stage);
    stage.world.abandon();
    this.#stage = null;
  }
}
