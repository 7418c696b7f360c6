/** kill -9 under persistent snapshots, taken and written to; see kill.ts. */

import t from 'tap';
import { killAgainAndAgain } from './kill.js';
import { snapshots } from './kill-scenarios.js';

killAgainAndAgain(t, snapshots);
