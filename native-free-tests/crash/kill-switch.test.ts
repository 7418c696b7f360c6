/** kill -9 under regions that move; see kill.ts. */

import t from 'tap';
import { killAgainAndAgain } from './kill.js';
import { switches } from './kill-scenarios.js';

killAgainAndAgain(t, switches);
