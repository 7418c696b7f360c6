/** All scripts at the edges, each with names of its own. */

import type { Edge } from './edge.js';
import { edgesOfChunks } from './edges-of-chunks.js';
import { edgesOfRequests } from './edges-of-requests.js';
import { edgesOfSpace } from './edges-of-space.js';
import { edgesOfTables } from './edges-of-tables.js';

export const edges: readonly Edge[] = [
  ...edgesOfSpace,
  ...edgesOfChunks,
  ...edgesOfTables,
  ...edgesOfRequests,
].map(({ script, ...edge }, at) => ({
  ...edge,
  script: script.map((line) => line.replaceAll('%', `e${at}`)),
}));
