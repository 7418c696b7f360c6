/** Resident memory of one server while it answers a great many requests: does it stop growing? */

import { setTimeout as sleep } from 'node:timers/promises';
import type { MemoryCase } from './case.js';
import type { Conditions } from './compare.js';
import { type FioResult, runFio } from './fio.js';
import { residentMegabytes } from './proc.js';
import { commandText } from './program.js';
import type { MemoryResult, MemorySample } from './results.js';
import { detailOf, startServer, stopServers } from './running-server.js';
import { flatness, median } from './statistics.js';
import { settle } from './test-file.js';

const sampleMilliseconds = 1000;
/** What is told of the samples while they are taken. */
const noteEverySamples = 15;

/** Throws if the server or fio fails. */
export async function watchMemory(
  memory: MemoryCase,
  { places, requests, signal, note }: Conditions,
): Promise<MemoryResult> {
  const file = await places.file('directory');
  const server = await startServer(memory.server, file, 'unix', places.sockets, signal);
  const samples: MemorySample[] = [];
  let found: FioResult;
  try {
    await settle(file, memory.server.cache, signal);
    const start = performance.now();
    const sample = async (): Promise<void> => {
      const megabytes = await residentMegabytes(server.program.pid);
      samples.push({ seconds: (performance.now() - start) / 1000, megabytes });
      if (samples.length % noteEverySamples !== 0) return;
      note(`${memory.name}: ${megabytes.toFixed(1)} MB after ${samples.length} samples`);
    };
    await sample();
    const done = new AbortController();
    const sampling = (async () => {
      while (!done.signal.aborted) {
        await sleep(sampleMilliseconds, null, { signal: done.signal }).catch(() => {});
        await sample();
      }
    })();
    // It is awaited below; until then its failure, that the server is gone, is fio's as well.
    sampling.catch(() => {});
    try {
      found = await runFio(memory.load, { requests }, server.uri, signal);
    } finally {
      done.abort();
    }
    await sampling;
  } finally {
    await stopServers([server]);
  }
  const { kind, name, title, megabytesMost } = memory;
  const megabytes = samples.map((sample) => sample.megabytes);
  return {
    kind,
    name,
    title,
    command: commandText(server.program.command),
    detail: detailOf(server),
    requests: found.ios,
    iops: found.iops,
    samples,
    first: megabytes[0] as number,
    median: median(megabytes),
    last: megabytes.at(-1) as number,
    max: Math.max(...megabytes),
    flatness: flatness(megabytes),
    megabytesMost,
  };
}
