/** Snapshots over real files on every engine, and once more where operations end in any order. */

import t from 'tap';
import { crashScenarios } from './crash-scenarios.js';
import { dmtsScenarios } from './dmts-scenarios.js';
import { onAllEngines } from './engines.js';
import { faultScenarios } from './fault-scenarios.js';
import { lvmScenarios } from './lvm-scenarios.js';
import { mergeScenarios } from './merge-scenarios.js';

t.test('what the device mapper test suite does', (t) => onAllEngines(t, dmtsScenarios));
t.test('what the scripts of LVM2 do', (t) => onAllEngines(t, lvmScenarios));
t.test('overflow, invalidation, handover', (t) => onAllEngines(t, faultScenarios));
t.test('merging', (t) => onAllEngines(t, mergeScenarios));
t.test('crashes', (t) => onAllEngines(t, crashScenarios));
