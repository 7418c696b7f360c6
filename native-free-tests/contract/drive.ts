/**
 * Runs a test's body on an engine. An engine may block its thread, and come back to the event loop
 * only when a promise was resolved: so the body starts inside the engine's loop (from a timer), and
 * waits for nothing but what the engine completes. What the peer's thread answers is looked for
 * from a timer of the engine as well.
 *
 * Every completion that a body hands out must be called once: the harness counts.
 */

import {
  MessageChannel,
  type MessagePort,
  receiveMessageOnPort,
  Worker,
} from 'node:worker_threads';
import { assert } from '../../src/base/assert.js';
import { Deferred } from '../../src/base/deferred.js';
import type {
  Completion,
  ConnectionHandler,
  Engine,
  EngineListener,
  EngineSocket,
  ListenAddress,
  SendVector,
} from '../../src/engine/engine.js';
import type { PeerAnswer, PeerRequest } from './peer.js';

/** A body that waits longer than this waits for something that will not come. */
const stuckMilliseconds = 20_000;
/** How long to watch for completions that are called a second time. */
const lateMilliseconds = 3;

export async function drive(engine: Engine, body: (io: Harness) => Promise<void>): Promise<void> {
  const io = new Harness(engine);
  const watchdog: Completion = {
    done: () => io.fail(new Error(`stuck: ${io.underWay} completions were not called`)),
  };
  const stuck = engine.timer(stuckMilliseconds, watchdog);
  const ended = (): void => {
    engine.cancelTimer(stuck);
    if (io.underWay === 0) engine.stop();
    else io.fail(new Error(`${io.underWay} completions were not called`));
  };
  const start: Completion = {
    done: () => {
      // The body may end without having waited for anything.
      engine.promiseResolved();
      body(io)
        .then(() => io.sleep(lateMilliseconds))
        .then(ended, (error) => io.fail(error));
    },
  };
  engine.timer(0, start);
  await engine.run();
  if (io.failure !== null) {
    io.abandon();
    throw io.failure.error;
  }
}

/** An operation of the engine as a promise. */
class Waiter implements Completion {
  readonly result: Deferred<number>;
  readonly #io: Harness;
  #called = false;

  constructor(io: Harness) {
    this.#io = io;
    this.result = new Deferred(io.engine);
  }

  done(result: number): void {
    if (this.#called) {
      this.#io.fail(new Error(`a completion was called again, with ${result}`));
      return;
    }
    this.#called = true;
    this.#io.underWay--;
    this.result.resolve(result);
  }
}

export class Harness {
  readonly engine: Engine;
  /** Completions handed out and not called yet. */
  underWay = 0;
  failure: { readonly error: unknown } | null = null;
  readonly #open: (() => void)[] = [];

  constructor(engine: Engine) {
    this.engine = engine;
  }

  /** Starts an operation; its result. */
  wait(operation: (completion: Completion) => void): Promise<number> {
    const waiter = new Waiter(this);
    this.underWay++;
    operation(waiter);
    return waiter.result.promise;
  }

  async sleep(milliseconds: number): Promise<void> {
    await this.wait((completion) => this.engine.timer(milliseconds, completion));
  }

  /** Arena memory, up to 1 MiB; given back with the engine. */
  memory(bytes: number): number {
    const memory = this.engine.arena.allocate(bytes);
    assert(memory >= 0, 'the suite needs an arena of 64 MiB');
    return memory;
  }

  bytes(memory: number, length: number): Uint8Array {
    return this.engine.arena.bytes.subarray(memory, memory + length);
  }

  receive(socket: EngineSocket, memory: number, length: number): Promise<number> {
    return this.wait((completion) => socket.receive(memory, length, completion));
  }

  send(socket: EngineSocket, vector: SendVector): Promise<number> {
    return this.wait((completion) => socket.send(vector, completion));
  }

  /** What has to be ended, should the test fail, for the process to end. */
  onFailure(end: () => void): void {
    this.#open.push(end);
  }

  abandon(): void {
    for (const end of this.#open) {
      try {
        end();
      } catch {
        // It was closed before, or the engine is in no state to do it.
      }
    }
  }

  /** Ends the test, with this error unless there was one before. */
  fail(error: unknown): void {
    this.failure ??= { error };
    this.engine.stop();
  }
}

/** A listener's connections, in the order in which they came. */
export class Connections implements ConnectionHandler {
  readonly #io: Harness;
  readonly #come: { socket: EngineSocket; peer: string }[] = [];
  readonly #awaited: Deferred<{ socket: EngineSocket; peer: string }>[] = [];

  constructor(io: Harness) {
    this.#io = io;
  }

  accepted(socket: EngineSocket, peer: string): void {
    const awaited = this.#awaited.shift();
    if (awaited === undefined) this.#come.push({ socket, peer });
    else awaited.resolve({ socket, peer });
  }

  /** Those that have come and nobody has asked for. */
  get waiting(): number {
    return this.#come.length;
  }

  next(): Promise<{ socket: EngineSocket; peer: string }> {
    const awaited = new Deferred<{ socket: EngineSocket; peer: string }>(this.#io.engine);
    const connection = this.#come.shift();
    if (connection === undefined) this.#awaited.push(awaited);
    else awaited.resolve(connection);
    return awaited.promise;
  }
}

export interface Connected {
  listener: EngineListener;
  socket: EngineSocket;
  /** As the engine names it, and the peer's own number and address of the connection. */
  peer: string;
  connection: number;
  peerAddress: string;
}

/** Listens, and has the peer connect once. */
export async function connected(
  io: Harness,
  peer: Peer,
  address: ListenAddress,
): Promise<Connected> {
  const connections = new Connections(io);
  const listener = await io.engine.listen(address, connections);
  io.onFailure(() => listener.close());
  const { value, text } = await peer.ask(io, { verb: 'connect', address: listener.address });
  const accepted = await connections.next();
  io.onFailure(() => accepted.socket.shutdown());
  return { ...accepted, listener, connection: value, peerAddress: text };
}

/** The peer's thread, as the suite sees it. */
export class Peer {
  readonly #worker: Worker;
  readonly #port: MessagePort;
  readonly #awaited = new Map<number, Deferred<PeerAnswer>>();
  #asked = 0;
  /** The test that asks. What one that failed still awaited is forgotten with it. */
  #io: Harness | null = null;

  constructor() {
    const { port1, port2 } = new MessageChannel();
    this.#port = port1;
    this.#worker = new Worker(new URL('./peer.js', import.meta.url), {
      workerData: port2,
      transferList: [port2],
      execArgv: [],
    });
    this.#worker.unref();
  }

  /** The answer to a request, whatever it is. */
  answer(io: Harness, request: PeerRequest): Promise<PeerAnswer> {
    const id = this.#asked++;
    const awaited = new Deferred<PeerAnswer>(io.engine);
    if (this.#io !== io) this.#awaited.clear();
    this.#io = io;
    if (this.#awaited.size === 0) this.#look(io);
    this.#awaited.set(id, awaited);
    this.#port.postMessage({ id, request });
    return awaited.promise;
  }

  /** The answer to a request that succeeds. */
  async ask(io: Harness, request: PeerRequest): Promise<PeerAnswer> {
    const answer = await this.answer(io, request);
    if (answer.error !== null) throw new Error(`the peer's ${request.verb}: ${answer.error}`);
    return answer;
  }

  async stop(): Promise<void> {
    await this.#worker.terminate();
    this.#port.close();
  }

  /** Looks for answers every millisecond, as long as some are awaited. */
  #look(io: Harness): void {
    const again: Completion = {
      done: () => {
        while (this.#io === io) {
          const received = receiveMessageOnPort(this.#port);
          if (received === undefined) break;
          const { id, answer } = received.message as { id: number; answer: PeerAnswer };
          this.#awaited.get(id)?.resolve(answer);
          this.#awaited.delete(id);
        }
        if (this.#awaited.size > 0 && this.#io === io) io.engine.timer(1, again);
      },
    };
    io.engine.timer(1, again);
  }
}
