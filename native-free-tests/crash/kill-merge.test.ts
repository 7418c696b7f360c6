/** kill -9 under merges; see kill.ts. */

import t from 'tap';
import { killAgainAndAgain } from './kill.js';
import { merges } from './kill-scenarios.js';

killAgainAndAgain(t, merges);
