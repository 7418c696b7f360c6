/** What a daemon that is not there says of itself. */

import type { Version } from '../../src/control/messages.js';

export const someVersion: Version = {
  name: 'mapperd',
  version: '0.0.0',
  protocol: 1,
  engine: 'node',
  engineReason: null,
  node: '20',
  pid: 1,
  state: null,
};
