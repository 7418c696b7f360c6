/** kill -9 under plain tables that are changed; see kill.ts. */

import t from 'tap';
import { killAgainAndAgain } from './kill.js';
import { plain } from './kill-scenarios.js';

killAgainAndAgain(t, plain);
