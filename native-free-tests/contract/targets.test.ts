import t from 'tap';
import { targetTypes } from '../../src/target/registry.js';
import { FakeHarness } from './fake-harness.js';
import { targetSuite } from './target-suite.js';

for (const { name } of targetTypes) {
  t.test(`${name} on the fake engine`, (t) => targetSuite(t, name, () => new FakeHarness()));
  t.test(`${name} on the fake engine, completions reversed`, (t) =>
    targetSuite(t, name, () => {
      const harness = new FakeHarness();
      harness.engine.reversed = true;
      return harness;
    }),
  );
}
