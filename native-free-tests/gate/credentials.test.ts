/** Files with keys and certificates: what is taken, what is refused and how it is told. */

import {
  chmodSync,
  chownSync,
  copyFileSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { pskBytes, pskUserBytes } from '../../src/base/limits.js';
import { findFolder, loadCertificates, usualFolders } from '../../src/gate/certificates.js';
import { readCredential } from '../../src/gate/credential-file.js';
import { loadPsk, parsePsk } from '../../src/gate/psk.js';
import { requires, succeed } from '../interop/programs.js';
import { Authority, authorityPrograms } from './authority.js';
import { key, Rig, user } from './rig.js';

const quiet = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

function folderFor(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'mapperd-credentials-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  return folder;
}

t.test('parses a file of pre-shared keys', (t) => {
  const text = 'alice:6D6170\r\n\n# a comment: of some kind\n#e282ac:00ff\n# abc\nb:c:01\n';
  const keys = [...parsePsk(text, 'keys.psk')].map(([name, key]) => [name, key.toString('hex')]);
  t.strictSame(keys, [
    ['alice', '6d6170'],
    ['€', '00ff'],
    ['b:c', '01'],
  ]);
  t.end();
});

t.test('rejects bad lines of pre-shared keys, without repeating them', (t) => {
  const bad: [string, RegExp][] = [
    ['alice', /line 1: wanted "user:key" with the key in hexadecimal$/],
    [':6d61', /line 1: wanted "user:key"/],
    ['alice:', /line 1: the key is not hexadecimal$/],
    ['\nalice:secret', /line 2: the key is not hexadecimal$/],
    ['alice:6d6', /line 1: the key is not hexadecimal$/],
    ['#abc:6d61', /line 1: the name behind # is not hexadecimal$/],
    ['alice:00\nbob:01\nalice:02', /line 3: its user has a key in an earlier line$/],
    [`${'a'.repeat(pskUserBytes + 1)}:00`, /line 1: found a name of 129 bytes, wanted at most 128/],
    [`a:${'00'.repeat(pskBytes + 1)}`, /line 1: found a key of 513 bytes, wanted at most 512$/],
    ['# nobody\n', /keys.psk": found no keys$/],
  ];
  for (const [text, message] of bad) {
    t.throws(() => parsePsk(text, 'keys.psk'), { code: 'EINVAL', message });
  }
  t.end();
});

t.test('refuses secret files that others can read, and files that cannot be read', async (t) => {
  const folder = folderFor(t);
  chmodSync(folder, 0o755);
  const path = join(folder, 'keys.psk');
  const refused = (mode: number, code: string, message: RegExp): Promise<unknown> => {
    chmodSync(path, mode);
    return t.rejects(loadPsk(path), { code, message });
  };
  await t.rejects(loadPsk(path), { code: 'ENOENT', message: `tls psk file "${path}": not found` });
  await t.rejects(loadPsk(folder), { code: 'EINVAL', message: /: wanted a file$/ });
  writeFileSync(path, 'alice:00\n');
  const found = /found mode 0640, which lets its group have the key, wanted 0600$/;
  await refused(0o640, 'EACCES', found);
  await refused(0o604, 'EACCES', /found mode 0604, which lets others have the key, wanted 0600$/);
  chmodSync(path, 0o600);
  t.ok(await loadPsk(path));
  chmodSync(path, 0o644);
  t.ok(await readCredential(path, 'certificate', false), 'which is right for what is no secret');
  writeFileSync(path, Buffer.alloc(5 * 2 ** 20));
  chmodSync(path, 0o600);
  await t.rejects(loadPsk(path), { code: 'EFBIG', message: /found 5242880 bytes, wanted at most/ });
});

t.test("takes root's keys through a group", { skip: notRoot() }, async (t) => {
  const folder = folderFor(t);
  chmodSync(folder, 0o755);
  const path = join(folder, 'keys.psk');
  writeFileSync(path, 'alice:00\n', { mode: 0o600 });
  const nobody = 65_534;
  const asNobody = async (work: () => Promise<unknown>): Promise<void> => {
    process.setegid?.(nobody);
    process.seteuid?.(nobody);
    try {
      await work();
    } finally {
      process.seteuid?.(0);
      process.setegid?.(0);
    }
  };
  const message = `tls psk file "${path}": not readable by user ${nobody}`;
  await asNobody(() => t.rejects(loadPsk(path), { code: 'EACCES', message }));
  chownSync(path, 0, nobody);
  chmodSync(path, 0o640);
  await asNobody(async () => t.ok(await loadPsk(path)));
  chmodSync(path, 0o644);
  await asNobody(() => t.rejects(loadPsk(path), { message: /which lets others have the key/ }));
});

function notRoot(): string | false {
  return process.geteuid?.() === 0 ? false : 'only root can become another user';
}

t.test('looks where nbdkit does', async (t) => {
  t.strictSame(usualFolders(0, '/root'), ['/etc/pki/nbdkit']);
  const usual = ['/home/a/.pki/nbdkit', '/home/a/.config/pki/nbdkit'];
  t.strictSame(usualFolders(1000, '/home/a'), usual);
  const [empty, full] = [folderFor(t), folderFor(t)];
  writeFileSync(join(full, 'server-key.pem'), '');
  t.equal(await findFolder([empty, full]), full);
  const message = `tls certificates: found no server-cert.pem in "${empty}" and "/nowhere" (--tls-certificates DIR names another folder)`;
  await t.rejects(findFolder([empty, '/nowhere']), { code: 'ENOENT', message });
});

const noAuthority = requires(...authorityPrograms, 'openssl');

t.test('reads certificates', { skip: noAuthority }, async (t) => {
  const authority = await Authority.make(join(folderFor(t), 'ca'));
  const good = await authority.server(join(authority.folder, 'good'));
  const other = await authority.server(join(authority.folder, 'other'));
  const names = ['ca-cert.pem', 'server-cert.pem', 'server-key.pem'];

  /** A folder like the good one, but for what `spoil` does to it. */
  const spoilt = async (
    name: string,
    message: RegExp,
    spoil: (path: (file: string) => string) => unknown,
    verifyPeer = false,
  ): Promise<void> => {
    const folder = folderFor(t);
    const path = (file: string): string => join(folder, file);
    for (const file of names) copyFileSync(join(good, file), path(file));
    await spoil(path);
    const loading = loadCertificates(folder, verifyPeer, quiet);
    await t.rejects(loading, { name: 'MapperError', message }, name);
  };
  const garbage = '-----BEGIN SOMETHING-----\nAAAA\n-----END SOMETHING-----\n';

  t.ok(await loadCertificates(good, false, quiet));
  t.ok(await loadCertificates(good, true, quiet));
  for (const file of ['server-cert.pem', 'server-key.pem']) {
    await spoilt(`no ${file}`, new RegExp(`${file}": not found$`), (path) =>
      unlinkSync(path(file)),
    );
    await spoilt(`bad ${file}`, new RegExp(`${file}": found no .* in PEM$`), (path) =>
      writeFileSync(path(file), garbage),
    );
  }
  const open = /server-key.pem": found mode 0640, which lets its group have the key, wanted 0600$/;
  await spoilt('open', open, (path) => chmodSync(path('server-key.pem'), 0o640));
  const mismatch =
    /^tls key ".*server-key.pem": does not belong to certificate ".*server-cert.pem"$/;
  await spoilt('mismatched', mismatch, (path) =>
    copyFileSync(join(other, 'server-key.pem'), path('server-key.pem')),
  );
  const locked = /server-key.pem": found a key with a passphrase, wanted one without$/;
  await spoilt('locked', locked, async (path) => {
    const words = ['ec', '-aes128', '-passout', 'pass:abcd', '-in', path('server-key.pem')];
    await succeed('openssl', [...words, '-out', path('locked.pem')]);
    writeFileSync(path('server-key.pem'), readFileSync(path('locked.pem')));
  });
  const unlinkAuthority = (path: (file: string) => string): void => unlinkSync(path('ca-cert.pem'));
  await spoilt('no authority', /authority ".*ca-cert.pem": not found$/, unlinkAuthority, true);
  await spoilt('bad authority', /ca-cert.pem": found no certificate in PEM$/, (path) =>
    writeFileSync(path('ca-cert.pem'), garbage),
  );
  await spoilt('bad list', /^tls revocation list ".*ca-crl.pem": found none in PEM /, (path) =>
    writeFileSync(path('ca-crl.pem'), garbage),
  );

  const alone = folderFor(t);
  for (const file of names.slice(1)) copyFileSync(join(good, file), join(alone, file));
  const { ca } = await loadCertificates(alone, false, quiet);
  t.equal(ca, undefined, 'without clients to verify, no authority is needed');
});

t.test('tells how long a certificate counts', { skip: noAuthority }, async (t) => {
  const authority = await Authority.make(join(folderFor(t), 'ca'));
  const lines: string[] = [];
  const say = (_fields: object, text: string): number => lines.push(text);
  const log = { ...quiet, info: say, warn: say };
  for (const years of ['2001 2002', '2101 2102', '2001 2102']) {
    const [from, to] = years.split(' ');
    const dates = `activation_date = "${from}-01-01"\nexpiration_date = "${to}-01-01"`;
    await loadCertificates(
      await authority.server(join(authority.folder, years), dates),
      false,
      log,
    );
  }
  const [expired, early] = ['tls certificate has expired', 'tls certificate is not valid yet'];
  t.strictSame(lines, [expired, early, 'tls certificate read']);
});

t.test('reads changed files again for new connections, unless they are no good', async (t) => {
  const rig = await Rig.open(t);
  const path = join(rig.folder, 'keys.psk');
  const bob = { pskCallback: () => ({ identity: 'bob', psk: key }) };
  const connect = async (options = {}): Promise<void> => {
    const { socket } = await (await rig.client()).starttls(options);
    socket.destroy();
  };
  await connect();
  await t.rejects(connect(bob));
  writeFileSync(path, `${user}:${key.toString('hex')}\nbob:${key.toString('hex')}\n`);
  await connect(bob);
  await rig.logged(/^tls: files have changed and were read again$/);
  writeFileSync(path, 'bob:and half of a li');
  await connect(bob);
  await connect();
  const told = rig.log.filter(({ text }) => text.startsWith('tls: files have changed and cannot'));
  t.equal(told.length, 1, 'told once');
  writeFileSync(path, `bob:${key.toString('hex')}\n`);
  await t.rejects(connect());
  await connect(bob);
});

t.test('refuses pre-shared keys together with certificates of clients', async (t) => {
  const message = /clients with pre-shared keys have no certificates to be verified/;
  await t.rejects(Rig.open(t, { verifyPeer: true }), { code: 'EINVAL', message });
});
