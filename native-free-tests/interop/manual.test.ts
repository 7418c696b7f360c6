/** The manual pages name every option and every command, and nothing in them is badly marked up. */

import { spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { commands } from '../../src/ctl/commands.js';
import { usageText } from '../../src/daemon/usage.js';
import { requires } from './programs.js';

const pages = ['mapperd.1', 'mapperctl.1', 'mapperd-protocol.7'];

function pathOf(page: string): string {
  return fileURLToPath(new URL(`../../../src/package/man/${page}`, import.meta.url));
}

/** As somebody reads it who looks for a word: no markup, `--` in one piece. */
function textOf(page: string): string {
  const source = readFileSync(pathOf(page), 'utf8');
  return source.replaceAll('Fl Fl ', '--').replaceAll('Fl ', '-');
}

t.test('mapperd(1) has every option of mapperd --help', async (t) => {
  const text = textOf('mapperd.1');
  const options = [...usageText().matchAll(/^ {2,6}(?:(-\w), )?(--[\w-]+)/gm)];
  t.ok(options.length > 20, 'the usage has its options');
  for (const [, short, long] of options) {
    t.match(text, new RegExp(`${long}\\b`), `${long} is there`);
    if (short !== undefined) t.match(text, `${short} , ${long}`, `${short} is there`);
  }
});

t.test('mapperctl(1) has every command', async (t) => {
  const text = textOf('mapperctl.1');
  for (const { name } of commands) {
    t.match(text, new RegExp(`^\\.It Cm ${name}\\b`, 'm'), `${name} is there`);
  }
});

t.test('mapperctl(1) has the options of every command that it spells out', async (t) => {
  const text = textOf('mapperctl.1');
  for (const { name, usage: words } of commands) {
    const section = text
      .split(new RegExp(`^\\.It Cm ${name}\\b`, 'm'))
      .slice(1)
      .join('');
    for (const [option] of words.matchAll(/--[\w-]+/g)) {
      t.match(section, new RegExp(`${option}\\b`), `${name} ${option} is there`);
    }
  }
});

for (const page of pages) {
  t.test(`${page} is well marked up`, { skip: requires('man') }, async (t) => {
    const { stdout, stderr } = spawnSync('man', ['--warnings', '-l', pathOf(page)], {
      encoding: 'utf8',
    });
    t.match(stdout, 'SEE ALSO');
    t.equal(stderr, '', 'no warnings');
  });
}
