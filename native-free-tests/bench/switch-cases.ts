/** What is measured of switch, and what is wanted of it; the rows are as in cases.ts. */

import type { EngineChoice } from '../../src/engine/choose.js';
import { against, atMost, type Case, common, random } from './case.js';
import { ramsayLayout, ramsayRegions, randomLayout, tableOf } from './layouts.js';
import { linearTable, type ServerSpec } from './servers.js';
import { measureUploadLoad } from './switch-load.js';
import { measureRouters } from './switch-memory.js';
import { fileWords, pathFiles, switchPaths, switchServer, switchTable } from './switch-servers.js';
import { measureUpload } from './switch-upload.js';

/** Each region is what one request reads, so that each request has a path of its own. */
const regionSectors = 8;
const regionBytes = 512 * regionSectors;
const kilo = 1024;
const mega = 1024 * kilo;

export function switchCases(engine: EngineChoice): Case[] {
  const load = random('randread');
  return [
    {
      ...common,
      name: 'switch-lookup',
      title: '4 KiB random read, depth 16, four files, each request on a random path',
      load,
      judged: overFiles(engine),
      others: [against(linearOverFile(engine), atMost('cpu', 1.05))],
    },
    {
      ...common,
      name: 'switch-lookup-size',
      title: '4 KiB random read, depth 16, of zeroes, with tables of 16 M and fewer regions',
      load,
      judged: overZeroes(engine, '16 M regions', 16 * mega),
      others: [
        against(overZeroes(engine, '1.5 M regions', ramsayRegions), atMost('cpu', 1.05)),
        against(overZeroes(engine, '1 K regions', kilo), atMost('cpu', 1.05)),
      ],
    },
    {
      kind: 'figures',
      name: 'switch-upload',
      title: "Ramsay's layout, from the client's send to the first I/O routed by it",
      measure: (conditions) => measureUpload(engine, conditions),
    },
    {
      kind: 'figures',
      name: 'switch-upload-load',
      title: '4 KiB random read, depth 16, with a whole table uploaded once a second',
      measure: (conditions) => measureUploadLoad(engine, conditions),
    },
    {
      kind: 'figures',
      name: 'switch-memory',
      title: 'resident memory with 512 routers of 1,572,864 regions over 4 paths',
      measure: (conditions) => measureRouters(engine, conditions),
    },
  ];
}

function overFiles(engine: EngineChoice): ServerSpec {
  return switchServer({
    engine,
    label: 'switch, four files',
    files: (file, directory) => pathFiles(directory, file.bytes / switchPaths),
    devices: (file, directory) => {
      const regions = file.bytes / switchPaths / regionBytes;
      const files = pathFiles(directory, file.bytes / switchPaths);
      const table = switchTable(regions, regionSectors, fileWords(files));
      const layout = randomLayout(regions, switchPaths, 1);
      return [{ name: 'vol', table, regions: tableOf(layout, switchPaths, regionSectors) }];
    },
  });
}

function linearOverFile(engine: EngineChoice): ServerSpec {
  return switchServer({
    engine,
    label: 'linear, one file',
    files: (file, directory) => pathFiles(directory, file.bytes / switchPaths).slice(0, 1),
    devices: (file, directory) => {
      const [only] = pathFiles(directory, file.bytes / switchPaths);
      if (only === undefined) throw new Error('no file to serve');
      return [{ name: 'vol', table: linearTable(only, fileWords([only])[0] as string) }];
    },
  });
}

/** All of a device of so many regions is read, and no file: lookups are all that differs. */
function overZeroes(engine: EngineChoice, label: string, regions: number): ServerSpec {
  const layout = (): Uint16Array =>
    regions === ramsayRegions
      ? ramsayLayout(switchPaths, 1)
      : randomLayout(regions, switchPaths, 1);
  return switchServer({
    engine,
    label,
    devices: () => {
      const words = new Array<string>(switchPaths).fill('dm:zeroes');
      return [
        { name: 'zeroes', table: `0 ${regions * regionSectors} zero` },
        {
          name: 'vol',
          table: switchTable(regions, regionSectors, words),
          regions: tableOf(layout(), switchPaths, regionSectors),
        },
      ];
    },
  });
}
