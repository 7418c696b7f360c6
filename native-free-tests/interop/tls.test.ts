/**
 * TLS with the clients that people have: libnbd's tools and qemu-img over nbds://, with certificates
 * and with pre-shared keys, in TLS 1.2 and 1.3; who is let in and who is not.
 */

import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { join } from 'node:path';
import t, { type Test } from 'tap';
import { Authority, authorityPrograms } from '../gate/authority.js';
import { GateClient, key, option, user } from '../gate/rig.js';
import { type EngineName, MiB, Scratch } from './harness.js';
import { commandOf, ModeDaemon, onEachEngine, until } from './mode-daemon.js';
import { fail, python, requires, run, succeed } from './programs.js';
import { contextRequest, infoRequest } from './raw-client.js';

const imageBytes = 4 * MiB;
const versions = ['TLSv1.2', 'TLSv1.3'] as const;
type Version = (typeof versions)[number];

/** An authority and what it has signed, made once for all tests. */
interface Certificates {
  readonly authority: Authority;
  readonly server: string;
  /** Of clients: with a certificate, without, with one of another authority, and a revoked one. */
  readonly client: string;
  readonly nameless: string;
  readonly stranger: string;
  readonly revoked: string;
  readonly other: Authority;
}

const noAuthority = requires(...authorityPrograms);
const files = new Scratch(t);
const certificates = noAuthority === false ? await makeCertificates() : null;

async function makeCertificates(): Promise<Certificates> {
  const authority = await Authority.make(files.file('ca'));
  const other = await Authority.make(files.file('other-ca'));
  const stranger = await other.client(files.file('stranger'), 'stranger');
  copyFileSync(files.file('ca/ca-cert.pem'), join(stranger, 'ca-cert.pem'));
  const nameless = files.file('nameless');
  mkdirSync(nameless);
  copyFileSync(files.file('ca/ca-cert.pem'), join(nameless, 'ca-cert.pem'));
  return {
    authority,
    server: await authority.server(files.file('server')),
    client: await authority.client(files.file('client'), 'alice'),
    nameless,
    stranger,
    revoked: await authority.client(files.file('revoked'), 'mallory'),
    other,
  };
}

const pskFolder = files.file('psk');
mkdirSync(pskFolder);
const pskFile = join(pskFolder, 'keys.psk');
writeFileSync(pskFile, `${user}:${key.toString('hex')}\nbob:${'ab'.repeat(64)}\n`, { mode: 0o600 });

/** How libnbd is kept from the other version. */
const priorities: Record<Version, string> = {
  'TLSv1.2': files.file('only-1.2'),
  'TLSv1.3': files.file('only-1.3'),
};
const disabled = (...names: string[]): string =>
  `[overrides]\n${names.map((name) => `disabled-version = tls${name}\n`).join('')}`;
writeFileSync(priorities['TLSv1.2'], disabled('1.3'));
writeFileSync(priorities['TLSv1.3'], disabled('1.0', '1.1', '1.2'));

function only(version: Version, ...command: string[]): ['env', string[]] {
  return ['env', [`GNUTLS_SYSTEM_PRIORITY_FILE=${priorities[version]}`, ...command]];
}

const qemuPriority = (version: Version): string =>
  `NORMAL:-VERS-ALL:+VERS-TLS1.${version === 'TLSv1.2' ? 2 : 3}`;

/** A daemon with an image, that offers TLS on TCP and on a unix socket. */
class TlsDaemon {
  readonly daemon: ModeDaemon;
  readonly port: number;
  readonly path: string;
  readonly image: string;

  private constructor(daemon: ModeDaemon, port: number, path: string, image: string) {
    this.daemon = daemon;
    this.port = port;
    this.path = path;
    this.image = image;
  }

  static async start(
    t: Test,
    engine: EngineName,
    files: Scratch,
    ...tls: readonly string[]
  ): Promise<TlsDaemon> {
    const image = files.pattern('disk.img', imageBytes, 7);
    const path = files.file('nbd.sock');
    const places = ['-p', '0', '-U', path, '--control', 'none', '--log-level', 'debug'];
    const command = commandOf(engine, ...places, '-e', 'disk', ...tls, image);
    const daemon = await ModeDaemon.start(t, files, command);
    const serving = (await daemon.serving()).join(' ');
    const port = Number(/127\.0\.0\.1:([0-9]+)/.exec(serving)?.[1]);
    return new TlsDaemon(daemon, port, path, image);
  }

  /** With the certificates in a client's folder. */
  uri(client: string): string {
    return `nbds://localhost:${this.port}/disk?tls-certificates=${client}`;
  }

  unixUri(client: string): string {
    return `nbds+unix:///disk?socket=${this.path}&tls-certificates=${client}`;
  }

  pskUri(name = user): string {
    return `nbds://${name}@localhost:${this.port}/disk?tls-psk-file=${pskFile}`;
  }

  get plainUri(): string {
    return `nbd://localhost:${this.port}/disk`;
  }

  /** The versions of TLS that clients have begun, since it was asked last. */
  versions(): string[] {
    const lines = this.daemon.stderr.split('\n').slice(this.#seen, -1);
    this.#seen += lines.length;
    const begun = lines.filter((line) => line.includes('uses tls'));
    return [...new Set(begun.map((line) => (JSON.parse(line) as { version: string }).version))];
  }

  #seen = 0;

  /** The same, when there are to be some: the log may be behind. */
  async begun(): Promise<string[]> {
    let found: string[] = [];
    await until('somebody has begun tls', () => {
      found = this.versions();
      return found.length > 0;
    });
    return found;
  }

  logged(text: RegExp): Promise<void> {
    return until(`the daemon has logged ${text}`, () => text.test(this.daemon.stderr));
  }

  async stop(t: Test): Promise<void> {
    t.match(await this.daemon.stop(), { code: 0, signal: null }, 'the daemon ends well');
  }
}

/** The words for qemu-img, up to what it is to do. */
function qemuImage(
  daemon: TlsDaemon,
  credentials: string,
  place: 'tcp' | 'unix' = 'tcp',
): { object: string[]; image: string } {
  const where =
    place === 'tcp'
      ? `server.type=inet,server.host=localhost,server.port=${daemon.port}`
      : `server.type=unix,server.path=${daemon.path},tls-hostname=localhost`;
  return {
    object: ['--object', `${credentials},id=tls0,endpoint=client`],
    image: `driver=nbd,${where},export=disk,tls-creds=tls0`,
  };
}

const x509 = (client: string): string => `tls-creds-x509,dir=${client},verify-peer=yes`;
const psk = `tls-creds-psk,dir=${pskFolder},username=${user}`;

async function copiesBothWays(t: Test, files: Scratch, daemon: TlsDaemon, uri: string) {
  const copy = files.file('copy.img');
  rmSync(copy, { force: true });
  await succeed('nbdcopy', ['-C', '4', '-R', '32', uri, copy]);
  t.ok(readFileSync(copy).equals(readFileSync(daemon.image)), 'nbdcopy reads');
  const next = files.pattern('next.img', imageBytes, 8);
  await succeed('nbdcopy', ['-C', '4', '--flush', next, uri]);
  t.ok(readFileSync(next).equals(readFileSync(daemon.image)), 'nbdcopy writes');
}

async function qemuWorks(
  t: Test,
  files: Scratch,
  daemon: TlsDaemon,
  credentials: string,
): Promise<void> {
  for (const place of ['tcp', 'unix'] as const) {
    const { object, image } = qemuImage(daemon, credentials, place);
    const info = await succeed('qemu-img', ['info', ...object, '--image-opts', image]);
    t.match(info, /virtual size: 4 MiB/, `qemu-img info over ${place}`);
  }
  const { object, image } = qemuImage(daemon, credentials);
  const copy = files.file('converted.img');
  const words = ['convert', ...object, '--image-opts', image, '-O', 'raw', '-m', '8', '-W', copy];
  await succeed('qemu-img', words);
  t.ok(readFileSync(copy).equals(readFileSync(daemon.image)), 'qemu-img converts');
  const next = files.pattern('next.img', imageBytes, 9);
  const back = ['convert', ...object, '-n', '--target-image-opts', '-f', 'raw', next, image];
  await succeed('qemu-img', back);
  t.ok(readFileSync(next).equals(readFileSync(daemon.image)), 'qemu-img writes');
}

const tools = ['nbdinfo', 'nbdcopy', 'qemu-img', ...authorityPrograms];

onEachEngine(t, 'certificates', tools, async (t, engine, files) => {
  const { server, nameless, client, stranger, other } = certificates as Certificates;
  const options = ['--tls=require', `--tls-certificates=${server}`];
  const daemon = await TlsDaemon.start(t, engine, files, ...options);

  for (const uri of [daemon.uri(nameless), daemon.unixUri(nameless), daemon.uri(client)]) {
    await succeed('nbdinfo', ['--is', 'tls', uri]);
    const { TLS } = JSON.parse(await succeed('nbdinfo', ['--json', uri])) as { TLS: boolean };
    t.equal(TLS, true, uri.replace(/\?.*/, ''));
  }
  t.strictSame(await daemon.begun(), ['TLSv1.3'], 'the newest unless asked otherwise');
  t.match(await succeed('nbdinfo', ['--list', daemon.uri(nameless)]), /export="disk"/);
  await copiesBothWays(t, files, daemon, daemon.uri(nameless));
  await qemuWorks(t, files, daemon, x509(nameless));
  await daemon.begun();

  for (const version of versions) {
    await succeed(...only(version, 'nbdinfo', daemon.uri(nameless)));
    const priority = `${x509(nameless)},priority=${qemuPriority(version)}`;
    const { object, image } = qemuImage(daemon, priority);
    await succeed('qemu-img', ['info', ...object, '--image-opts', image]);
    t.strictSame(await daemon.begun(), [version], 'libnbd and QEMU');
  }

  const plain = await fail('nbdinfo', [daemon.plainUri]);
  t.match(plain, /Operation not supported/, 'a plain client is refused');
  const plainQemu = await fail('qemu-img', ['info', daemon.plainUri]);
  t.match(plainQemu, /tls is required here/, 'and told why');
  await fail('nbdinfo', [daemon.pskUri()]);
  const wrong = files.file('wrong');
  mkdirSync(wrong);
  copyFileSync(join(other.folder, 'ca-cert.pem'), join(wrong, 'ca-cert.pem'));
  t.match(await fail('nbdinfo', [daemon.uri(wrong)]), /certificate/i, 'clients verify the server');
  await succeed('nbdinfo', [daemon.uri(stranger)]);
  await daemon.stop(t);
});

onEachEngine(t, 'pre-shared keys', tools, async (t, engine, files) => {
  const daemon = await TlsDaemon.start(t, engine, files, '--tls=require', `--tls-psk=${pskFile}`);
  await copiesBothWays(t, files, daemon, daemon.pskUri());
  await qemuWorks(t, files, daemon, psk);
  t.strictSame(await daemon.begun(), ['TLSv1.3'], 'the newest unless asked otherwise');
  for (const version of versions) {
    await succeed(...only(version, 'nbdinfo', daemon.pskUri()));
    await succeed(...only(version, 'nbdinfo', daemon.pskUri('bob')));
    const priority = `${psk},priority=${qemuPriority(version)}`;
    const { object, image } = qemuImage(daemon, priority);
    await succeed('qemu-img', ['info', ...object, '--image-opts', image]);
    t.strictSame(await daemon.begun(), [version], 'libnbd and QEMU');
  }
  const other = files.file('other.psk');
  writeFileSync(other, `${user}:00112233\neve:00112233\n`, { mode: 0o600 });
  for (const name of [user, 'eve']) {
    const uri = `nbds://${name}@localhost:${daemon.port}/disk?tls-psk-file=${other}`;
    await fail('nbdinfo', [uri]);
  }
  await fail('nbdinfo', [daemon.uri((certificates as Certificates).nameless)]);
  await fail('nbdinfo', [daemon.plainUri]);
  t.strictSame(daemon.versions(), [], 'nobody else is let in');
  await daemon.stop(t);
});

onEachEngine(t, 'tls for those who ask for it', tools, async (t, engine, files) => {
  const daemon = await TlsDaemon.start(t, engine, files, '--tls=on', `--tls-psk=${pskFile}`);
  await succeed('nbdinfo', ['--is', 'tls', daemon.pskUri()]);
  const { code } = await run('nbdinfo', ['--is', 'tls', daemon.plainUri]);
  t.equal(code, 2, 'and not for others');
  await copiesBothWays(t, files, daemon, daemon.plainUri);
  await copiesBothWays(t, files, daemon, daemon.pskUri());
  t.match(await succeed('qemu-img', ['info', daemon.plainUri]), /virtual size: 4 MiB/);

  await t.test('forgets before TLS what was agreed on in plain text', async (t) => {
    const client = new GateClient(connect(daemon.port, '127.0.0.1'));
    await client.inbox.take(18);
    client.socket.write(Buffer.from([0, 0, 0, 3]));
    t.equal((await client.ask(option(8))).type, 1, 'structured replies');
    t.match(await client.ask(option(77)), { type: 0x80000001 });
    const { socket, inbox } = await client.starttls();
    const secure = new GateClient(socket, inbox);
    const contexts = option(10, contextRequest('disk', 'base:allocation'));
    t.match(await secure.ask(contexts), { type: 0x80000003 }, 'no contexts without them');
    t.match(await secure.ask(option(8)), { type: 1 }, 'not agreed on yet');
    t.match(await secure.ask(option(5)), { type: 0x80000003 }, 'STARTTLS a second time');
    t.match(await secure.ask(option(2)), { type: 1 }, 'ABORT');
    t.equal((await inbox.rest()).length, 0);
    socket.destroy();
  });
  await daemon.stop(t);
});

onEachEngine(t, "clients' certificates", tools, async (t, engine, files) => {
  const all = certificates as Certificates;
  // A folder of its own, where certificates are revoked.
  const server = await all.authority.server(files.file('server'));
  const list = join(server, 'ca-crl.pem');
  await all.authority.revoke(list);
  const options = ['--tls=require', `--tls-certificates=${server}`, '--tls-verify-peer'];
  const daemon = await TlsDaemon.start(t, engine, files, ...options);

  for (const version of versions) {
    await succeed(...only(version, 'nbdinfo', daemon.uri(all.client)));
    await succeed(...only(version, 'nbdinfo', daemon.uri(all.revoked)));
    t.strictSame(await daemon.begun(), [version]);
    for (const folder of [all.nameless, all.stranger]) {
      await fail(...only(version, 'nbdinfo', daemon.uri(folder)));
    }
    t.strictSame(daemon.versions(), [], 'none without a certificate of our authority');
  }
  await daemon.logged(/client certificate refused: /);
  const { object, image } = qemuImage(daemon, x509(all.client));
  await succeed('qemu-img', ['info', ...object, '--image-opts', image]);
  const nameless = qemuImage(daemon, x509(all.nameless));
  await fail('qemu-img', ['info', ...nameless.object, '--image-opts', nameless.image]);
  await daemon.begun();

  await all.authority.revoke(list, join(all.revoked, 'client-cert.pem'));
  for (const version of versions) {
    await fail(...only(version, 'nbdinfo', daemon.uri(all.revoked)));
    t.strictSame(daemon.versions(), [], 'one that has been revoked is not let in any more');
    await succeed(...only(version, 'nbdinfo', daemon.uri(all.client)));
    t.strictSame(await daemon.begun(), [version], 'the others are');
  }
  await daemon.logged(/client certificate refused: CERT_REVOKED/);
  await daemon.stop(t);
});

onEachEngine(t, 'a renewed certificate', tools, async (t, engine, files) => {
  const { server, nameless, other } = certificates as Certificates;
  const folder = files.file('renewed');
  mkdirSync(folder);
  const install = (from: string, ...names: string[]): void => {
    for (const name of names) copyFileSync(join(from, name), join(folder, name));
  };
  install(server, 'ca-cert.pem', 'server-cert.pem', 'server-key.pem');
  const options = ['--tls=require', `--tls-certificates=${folder}`];
  const daemon = await TlsDaemon.start(t, engine, files, ...options);
  await succeed('nbdinfo', [daemon.uri(nameless)]);
  const copying = succeed('nbdcopy', [daemon.uri(nameless), files.file('slow.img')]);

  const next = await other.server(files.file('next'));
  const trusting = files.file('trusting');
  mkdirSync(trusting);
  copyFileSync(join(next, 'ca-cert.pem'), join(trusting, 'ca-cert.pem'));
  install(next, 'server-cert.pem');
  await succeed('nbdinfo', [daemon.uri(nameless)]);
  await daemon.logged(/cannot be used, those before stay in use/);
  install(next, 'server-key.pem', 'ca-cert.pem');
  await succeed('nbdinfo', [daemon.uri(trusting)]);
  t.match(await fail('nbdinfo', [daemon.uri(nameless)]), /certificate/i, 'the old one has gone');
  await copying;
  await daemon.stop(t);
});

/** Does STARTTLS for programs that know TLS only; each connection is a new one to the daemon. */
async function relayTo(t: Test, port: number): Promise<number> {
  const server = createServer((socket) => {
    const wire = new GateClient(connect(port, '127.0.0.1'));
    socket.on('error', () => wire.socket.destroy());
    socket.on('close', () => wire.socket.destroy());
    wire.socket.on('close', () => socket.destroy());
    void (async () => {
      await wire.inbox.take(18);
      wire.socket.write(Buffer.from([0, 0, 0, 3]));
      await wire.ask(option(5));
      wire.socket.removeAllListeners('data');
      wire.socket.pipe(socket).pipe(wire.socket);
    })();
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  t.teardown(() => server.close());
  return (server.address() as { port: number }).port;
}

/** LIST in TLS, and then no more. */
const input = Buffer.concat([option(3), option(2)]).toString('latin1');

onEachEngine(t, 'versions, by openssl', [...tools, 'openssl'], async (t, engine, files) => {
  const { server, client } = certificates as Certificates;
  const options = ['--tls=require', `--tls-certificates=${server}`, '--tls-verify-peer'];
  const daemon = await TlsDaemon.start(t, engine, files, ...options);
  const port = await relayTo(t, daemon.port);
  const pem = (name: string): string => join(client, name);
  const own = ['-CAfile', pem('ca-cert.pem'), '-cert', pem('client-cert.pem')];
  const always = ['s_client', '-connect', `127.0.0.1:${port}`, '-ign_eof', ...own];
  const openssl = async (...words: string[]): Promise<string> => {
    const all = [...always, '-key', pem('client-key.pem'), ...words];
    const { stdout, stderr } = await run('openssl', all, { input });
    return stdout + stderr;
  };
  const expected = { '-tls1_2': 'TLSv1.2', '-tls1_3': 'TLSv1.3' };
  for (const [word, version] of Object.entries(expected)) {
    const session = files.file(`session${word}`);
    const first = await openssl(word, '-sess_out', session);
    t.match(first, `New, ${version}, Cipher is`);
    t.match(first, 'Verify return code: 0 (ok)');
    t.strictSame(await daemon.begun(), [version]);
    // Without a ticket there is nothing to begin with next time.
    if (!existsSync(session)) continue;
    t.match(await openssl(word, '-sess_in', session), `New, ${version}, Cipher is`);
    t.strictSame(await daemon.begun(), [version], 'no session is resumed');
  }
  for (const word of ['-tls1', '-tls1_1']) {
    const refused = await openssl(word, '-cipher', 'ALL:@SECLEVEL=0');
    t.match(refused, 'alert protocol version', `${word} is refused`);
  }
  await daemon.stop(t);
});

onEachEngine(t, 'versions, by gnutls', [...tools, 'gnutls-cli'], async (t, engine, files) => {
  const daemon = await TlsDaemon.start(t, engine, files, '--tls=require', `--tls-psk=${pskFile}`);
  const port = await relayTo(t, daemon.port);
  const gnutls = async (priority: string): Promise<void> => {
    const who = ['--pskusername', user, '--pskkey', key.toString('hex')];
    const where = ['--priority', priority, '-p', `${port}`, '127.0.0.1'];
    await run('gnutls-cli', [...who, ...where], { input });
  };
  for (const kind of ['+ECDHE-PSK:+DHE-PSK:+PSK', '+ECDHE-PSK', '+DHE-PSK']) {
    for (const version of versions) {
      await gnutls(`${qemuPriority(version)}:${kind}`);
      t.strictSame(await daemon.begun(), [version], `${version} with ${kind}`);
    }
  }
  for (const bad of ['-VERS-ALL:+VERS-TLS1.2:-KX-ALL:+PSK', '-VERS-ALL:+VERS-TLS1.1:+ECDHE-PSK']) {
    await gnutls(`NORMAL:${bad}`);
    t.strictSame(daemon.versions(), [], `${bad} is refused`);
  }
  await daemon.stop(t);
});

onEachEngine(
  t,
  'tls on standard input and output',
  ['python3-libnbd'],
  async (t, engine, files) => {
    const image = files.pattern('disk.img', imageBytes, 7);
    const tls = ['--tls=require', `--tls-psk=${pskFile}`];
    const command = commandOf(engine, '-s', '--control', 'none', ...tls, image);
    const script = `
import nbd, sys
h = nbd.NBD()
h.set_tls(nbd.TLS_REQUIRE)
h.set_tls_psk_file(sys.argv[1])
h.set_tls_username(sys.argv[2])
h.connect_command(sys.argv[4:])
assert h.get_tls_negotiated()
with open(sys.argv[3], "rb") as image:
    assert h.pread(1 << 20, 4096) == image.read()[4096:4096 + (1 << 20)]
h.pwrite(b"x" * 512, 512)
h.shutdown()
`;
    await python('-c', script, pskFile, user, image, ...command);
    t.equal(readFileSync(image).toString('latin1', 512, 1024), 'x'.repeat(512));
  },
);

onEachEngine(
  t,
  'every byte through TLS is right',
  ['nbdkit', 'nbdcopy', ...authorityPrograms],
  async (t, engine, files) => {
    const { server, nameless } = certificates as Certificates;
    const options = ['--tls=require', `--tls-certificates=${server}`];
    const daemon = await TlsDaemon.start(t, engine, files, ...options);
    const uri = daemon.uri(nameless);
    // nbdkit's plugin makes data up, and looks at every byte that is written back to it.
    const both = `nbdcopy "$uri" '${uri}' && nbdcopy '${uri}' "$uri"`;
    const source = ['sparse-random', `${imageBytes}`, 'seed=7', 'percent=60'];
    await succeed('nbdkit', ['-U', '-', ...source, '--run', both]);
    await daemon.stop(t);
  },
);

/** A client in TLS that speaks in bytes. */
async function secureClient(daemon: TlsDaemon): Promise<GateClient> {
  const plain = new GateClient(connect(daemon.port, '127.0.0.1'));
  await plain.inbox.take(18);
  plain.socket.write(Buffer.from([0, 0, 0, 3]));
  const { socket, inbox } = await plain.starttls();
  return new GateClient(socket, inbox);
}

onEachEngine(t, 'a handshake that does not end, in TLS', tools, async (t, engine, files) => {
  const options = ['--tls=require', `--tls-psk=${pskFile}`, '--timeout', '900ms'];
  const daemon = await TlsDaemon.start(t, engine, files, ...options);
  const client = await secureClient(daemon);
  while (!client.inbox.ended) {
    await client.ask(option(3));
    await new Promise((wake) => setTimeout(wake, 20));
  }
  await daemon.logged(/no export chosen within 900 ms/);
  await daemon.stop(t);
});

onEachEngine(
  t,
  'a client that takes nothing when the daemon ends',
  tools,
  async (t, engine, files) => {
    const daemon = await TlsDaemon.start(t, engine, files, '--tls=require', `--tls-psk=${pskFile}`);
    const client = await secureClient(daemon);
    t.match(await client.ask(option(7, infoRequest('disk'))), { type: 3 });
    await client.inbox.take(20);
    client.socket.pause();
    // What it asks for is more than any buffer on the way takes.
    for (let i = 0; i < 200; i++) {
      const read = Buffer.alloc(28);
      read.writeUInt32BE(0x25609513, 0);
      read.writeUInt32BE(i, 12);
      read.writeUInt32BE(MiB, 24);
      client.socket.write(read);
    }
    await new Promise((wake) => setTimeout(wake, 300));
    await daemon.stop(t);
    client.socket.destroy();
  },
);
