/** Written by the lead so that others can compile: replaced by the copy engine's author. */
import type { IoPool } from '../device/io.js';
import type { Engine } from '../engine/engine.js';
import { CopyJob } from './job.js';

export class CopyEngine {
  constructor(engine: Engine, ios: IoPool) {
    void engine;
    void ios;
  }
  /** A job to be filled in and started. It goes back to the pool when its owner has been told. */
  take(): CopyJob {
    return new CopyJob();
  }
  start(job: CopyJob): void {
    job.owner?.copied(job);
  }
}
