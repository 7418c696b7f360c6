/**
 * The rules that the tree keeps, checked by reading it: who may import what, how long lines and
 * files may be, that nothing lies about unused, and that the top level is as fixed.
 */

import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import t from 'tap';

const root = process.cwd();

/** Tracked files, and new ones that are not ignored. */
const files = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], { encoding: 'utf8' })
  .split('\n')
  // One that is to be deleted is tracked until that is committed.
  .filter((path) => path !== '' && existsSync(join(root, path)));
const sources = files.filter((path) => path.startsWith('src/') && path.endsWith('.ts'));
const text = (path: string): string => readFileSync(join(root, path), 'utf8');

/** What a file imports, as written. */
function imports(path: string): string[] {
  const found = text(path).matchAll(/(?:from|import)\s*\(?\s*'([^']+)'/g);
  return [...found].map((match) => match[1] as string);
}

t.test('the data plane is pure: sockets, files, threads and koffi stay in the engines', (t) => {
  const forbidden = ['node:net', 'node:fs', 'node:fs/promises', 'node:worker_threads', 'koffi'];
  const pure = ['src/nbd/', 'src/device/', 'src/target/', 'src/backing/', 'src/copy/'];
  for (const path of sources.filter((path) => pure.some((folder) => path.startsWith(folder)))) {
    const wrong = imports(path).filter((name) => forbidden.includes(name));
    t.strictSame(wrong, [], path);
  }
  t.end();
});

t.test('koffi is imported under engine/uring only', (t) => {
  for (const path of sources.filter((path) => imports(path).includes('koffi'))) {
    t.match(path, /^src\/engine\/uring\//);
  }
  t.end();
});

t.test("sockets are the business of engines, gate and control plane; TLS is the gate's", (t) => {
  const sockets = /^src\/(engine\/|gate\/|control\/|ctl\/|kernel\/|base\/unix-socket\.ts$)/;
  for (const path of sources.filter((path) => imports(path).includes('node:net'))) {
    // Whether a text is an address is no business with sockets.
    const isPure = /import \{ (isIP|isIPv4|isIPv6|BlockList|, )+ \} from 'node:net'/.test(
      text(path),
    );
    if (!isPure) t.match(path, sockets);
  }
  for (const path of sources.filter((path) => imports(path).includes('node:tls'))) {
    t.match(path, /^src\/gate\//);
  }
  t.end();
});

t.test('of the data plane the gate has the codecs only', (t) => {
  const inside = /\/(nbd|device|target|backing|copy|engine)\//;
  const shared =
    /\/(nbd\/(constants|option|option-reply|peer|piped)|engine\/(engine|address|node\/listener))\.js$/;
  for (const path of sources.filter((path) => path.startsWith('src/gate/'))) {
    const wrong = imports(path).filter((name) => inside.test(name) && !shared.test(name));
    t.strictSame(wrong, [], path);
  }
  t.end();
});

t.test('the control thread does not reach into the data plane', (t) => {
  const inside = /\/(nbd|device|target|backing|engine)\//;
  // Plain data and pure text, which both threads share.
  const shared =
    /\/(device\/(counters|table-text)|engine\/(engine|choose|address)|backing\/(device|open)|nbd\/export-policy|target\/switch\/(mappings|region-table|upload-format))\.js$/;
  for (const path of sources.filter((path) => /^src\/(control|ctl)\//.test(path))) {
    const wrong = imports(path).filter((name) => inside.test(name) && !shared.test(name));
    t.strictSame(wrong, [], path);
  }
  t.end();
});

t.test('lines have at most 100 columns, and nothing is left to be done', (t) => {
  const left = /\b(TODO|FIXME|XXX)\b/;
  for (const path of files.filter((path) => /^(src|native-free-tests)\/.*\.ts$/.test(path))) {
    for (const [index, line] of text(path).split('\n').entries()) {
      // A long text or pattern cannot always be broken.
      if (line.length > 100 && !/['"`/]/.test(line)) t.fail(`${path}:${index + 1} is too long`);
      if (path !== 'native-free-tests/tidy.test.ts' && left.test(line)) {
        t.fail(`${path}:${index + 1} leaves something to be done`);
      }
    }
  }
  t.pass('read');
  t.end();
});

t.test('a file is one idea: at most 450 lines', (t) => {
  for (const path of sources) t.ok(text(path).split('\n').length <= 450, path);
  t.end();
});

t.test('every source is imported by another, but for the commands and the queue thread', (t) => {
  const entries = ['src/mapperd.ts', 'src/mapperctl.ts', 'src/queue/thread.ts'];
  const imported = new Set(
    sources.flatMap((path) =>
      imports(path)
        .filter((name) => name.startsWith('.'))
        .map((name) => join(dirname(path), name).replace(/\.js$/, '.ts')),
    ),
  );
  for (const path of sources.filter((path) => !entries.includes(path))) {
    t.ok(imported.has(path), path);
  }
  t.end();
});

t.test('a target is a folder with its target.ts and README.md', (t) => {
  const folders = new Set(
    files
      .filter((path) => /^src\/target\/[^/]+\//.test(path))
      .map((path) => path.split('/').slice(0, 3).join('/')),
  );
  for (const folder of folders) {
    for (const name of ['target.ts', 'README.md']) t.ok(files.includes(`${folder}/${name}`), name);
    const registry = text('src/target/registry.ts');
    t.match(registry, `./${folder.split('/')[2]}/target.js`, `${folder} is registered`);
  }
  t.end();
});

t.test('the top level is as it was fixed', (t) => {
  const allowed =
    /^(package(-lock)?\.json|tsconfig\.json|src|native-free-tests|docker|README\.md|LICENSE|\..+)$/;
  const top = new Set(files.map((path) => path.split('/')[0] as string));
  for (const name of top) t.match(name, allowed);
  t.end();
});
