import t from 'tap';
import { Arena } from '../../src/engine/arena.js';
import { NodeEngine } from '../../src/engine/node/engine.js';
import { engineSuite } from '../contract/engine-suite.js';

engineSuite(t, 'node', () => new NodeEngine(new Arena(64 * 1024 * 1024)));
