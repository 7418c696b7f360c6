/** Everything that is fuzzed. A new subject is one file and one line here. */

import { control } from './control.js';
import { piped, transmission } from './conversation.js';
import { cow } from './cow.js';
import { gate } from './gate.js';
import { handshake } from './handshake.js';
import { mappings } from './mappings.js';
import { psk } from './psk.js';
import { regionFile, upload } from './regions.js';
import { rpc } from './rpc.js';
import { stateDirectory, stateFile } from './state.js';
import type { SubjectMaker } from './subject.js';
import { table } from './table.js';

export const subjects: readonly SubjectMaker[] = [
  handshake,
  gate,
  transmission,
  piped,
  control,
  rpc,
  upload,
  regionFile,
  mappings,
  psk,
  stateFile,
  stateDirectory,
  table,
  cow,
];
