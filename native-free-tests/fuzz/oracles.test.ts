/** Each check of a subject can fail: something is broken on purpose, and a few inputs show it. */

import { Buffer } from 'node:buffer';
import t from 'tap';
import { EINVAL } from '../../src/base/errno.js';
import { MapperError } from '../../src/base/errors.js';
import { parseTableFile } from '../../src/control/state-text.js';
import { TcpAccess } from '../../src/control/tcp-access.js';
import { BeforeTls } from '../../src/gate/before-tls.js';
import { Handshake } from '../../src/nbd/handshake.js';
import { Mappings } from '../../src/target/switch/mappings.js';
import { decodeSections } from '../../src/target/switch/upload-format.js';
import { directoryOf } from '../nbd/conversation.js';
import { makeControlSubject } from './control.js';
import { conversationSubject } from './conversation.js';
import { makeCowSubject } from './cow.js';
import { readStore } from './cow-image.js';
import { DeviceHost } from './device-host.js';
import { token } from './frames.js';
import { gateSubject } from './gate.js';
import { handshakeDirectory, handshakeSubject, type MakeHandshake } from './handshake.js';
import { type Input, inputBytes, readInput, writeInput } from './input.js';
import { mappingsSubject } from './mappings.js';
import { minimise } from './minimise.js';
import { NbdHost } from './nbd-host.js';
import { PoisonedArena, poison, refusePoison } from './poison.js';
import { pskSubject } from './psk.js';
import { Random } from './random.js';
import { regionFileSubject, restoredRegions, uploadSubject } from './regions.js';
import { rpcSubject } from './rpc.js';
import { inputOf, run } from './run.js';
import { loadDirectory, stateDirectorySubject, stateFileSubject } from './state.js';
import { checkedRefusal, reasonedRefusal, refusalOf, type Subject } from './subject.js';
import { makeTableSubject } from './table.js';

const seed = 42;
const inputsMost = 400;

/** The text of the first failure; null: all went well. */
async function firstFailure(subject: Subject, most = inputsMost): Promise<string | null> {
  for (let number = 0; number < most; number++) {
    try {
      await subject.check(inputOf(subject, seed, number));
    } catch (error) {
      return String(error);
    }
  }
  return null;
}

t.test('handshake: a machine that is wrong', async (t) => {
  t.equal(await firstFailure(handshakeSubject()), null);

  class Longer extends Handshake {
    override takeOutput(): Uint8Array[] {
      const output = super.takeOutput();
      return output.length > 1 ? [...output, Buffer.alloc(1)] : output;
    }
  }
  const longer: MakeHandshake = (protocol, secure) =>
    new Longer(handshakeDirectory, protocol, secure, null);
  t.match(await firstFailure(handshakeSubject(longer)), /Finding/, 'a byte too many');

  class Forgetful extends Handshake {
    override push(chunk: Uint8Array, from: number, to: number): number {
      // Of a chunk of one byte it looks at another one.
      return super.push(chunk, to - from === 1 ? from - 1 : from, to);
    }
  }
  const forgetful: MakeHandshake = (protocol, secure) =>
    new Forgetful(handshakeDirectory, protocol, secure, null);
  t.match(await firstFailure(handshakeSubject(forgetful)), /cut up/, 'it depends on the cuts');

  const old: MakeHandshake = (protocol, secure) =>
    new Handshake(handshakeDirectory, { ...protocol, extendedHeaders: false }, secure, null);
  t.match(await firstFailure(handshakeSubject(old)), /option 11 was refused/);

  const other: MakeHandshake = (protocol, secure) =>
    new Handshake(directoryOf([]), protocol, secure, null);
  t.match(await firstFailure(handshakeSubject(other)), /Finding/, 'other exports');
});

t.test('gate: a machine of the other mode, and one that forwards too little', async (t) => {
  const swapped = gateSubject((mode) => new BeforeTls(mode === 'on' ? 'require' : 'on'));
  t.match(await firstFailure(swapped), /Finding/);
  class Losing extends BeforeTls {
    override takeForwarded(): Uint8Array[] {
      return super.takeForwarded().slice(0, 3);
    }
  }
  t.match(await firstFailure(gateSubject((mode) => new Losing(mode))), /bytes forwarded/);
});

t.test('transmission: replies that are wrong', async (t) => {
  const host = await NbdHost.make();
  const tapped = (tap: (output: Buffer) => Buffer): Promise<string | null> =>
    firstFailure(conversationSubject('transmission', host, false, tap));
  t.equal(await tapped((output) => output), null);
  t.match(
    await tapped((output) => {
      if (output.length > 600) output.fill(poison, 300, 320);
      return output;
    }),
    /nobody has written/,
  );
  t.match(await tapped((output) => output.subarray(0, -1)), /cut short|the output ends|no reply/);
  t.match(await tapped((output) => Buffer.concat([output, Buffer.alloc(16)])), /Finding/);
  const flipped = (place: number): Promise<string | null> =>
    tapped((output) => {
      if (output.length > place) output[output.length - place] = 0x77;
      return output;
    });
  for (const place of [1, 5, 9, 13, 16]) t.match(await flipped(place), /Finding/, `${place}`);
});

t.test('transmission: leaks, hangs, and the zeroes written to', async (t) => {
  const leaks: ((host: NbdHost) => void)[] = [
    (host) => void host.engine.arena.allocate(4096),
    (host) => void host.ios.take(0, 0, 512, { finished() {} }),
    (host) => void host.engine.timer(1e6, { done() {} }),
    (host) => host.engine.start(() => 0, { done() {} }),
  ];
  for (const leak of leaks) {
    const host = await NbdHost.make();
    const subject = conversationSubject('transmission', host, false, (output) => {
      leak(host);
      return output;
    });
    t.match(await firstFailure(subject), /are left/);
  }
  const stuck = await NbdHost.make();
  for (const disk of stuck.engine.disks.values()) disk.stuck = true;
  const hanging = conversationSubject('transmission', stuck, false);
  t.match(await firstFailure(hanging), /turns, and the connection is open/);
  const host = await NbdHost.make();
  const zeroed = conversationSubject('transmission', host, false, (output) => {
    host.engine.arena.words[97] = 1;
    return output;
  });
  t.match(await firstFailure(zeroed), /the zeroes were written to/);
});

t.test('piped: an answer to somebody who was not let in', async (t) => {
  const host = await NbdHost.make();
  const subject = conversationSubject('piped', host, true, (output) =>
    output.length === 0 ? Buffer.alloc(3) : output,
  );
  t.match(await firstFailure(subject), /not let in|more than were asked for/);
});

t.test('control and rpc: replies that are wrong', async (t) => {
  const flipped = await makeControlSubject((output) => {
    const end = output.indexOf('\r\n\r\n') + 4;
    if (end > 4 && end < output.length) output[end] = 0x83;
    return output;
  });
  t.match(await firstFailure(flipped), /a frame of kind 3/);
  const lax = new TcpAccess(token, []);
  lax.refusal = () => null;
  const open = await makeControlSubject((output) => output, lax);
  t.match(await firstFailure(open), /without the token was let in/);
  const unproved = await makeControlSubject((output) => {
    const at = output.indexOf('Accept: ');
    return at < 0 ? output : Buffer.from(output).fill('x', at + 8, at + 9);
  });
  t.match(await firstFailure(unproved), /accepted as/);
  const unheaded = await makeControlSubject((output) => output.subarray(0, 20));
  t.match(await firstFailure(unheaded), /no head/);
  t.match(await firstFailure(rpcSubject(() => null)), /no reply/);
  const other = rpcSubject((_text, reply) => reply?.replace(/"id":\d/, '"id":77') ?? null);
  t.match(await firstFailure(other), /id 77/);
  const faulty = rpcSubject(
    (_text, reply) => reply?.replace(/"code":-\d+/, '"code":-32603') ?? null,
  );
  t.match(await firstFailure(faulty), /error -32603/);
});

t.test('region tables: one entry is another, one section is lost, garbage is taken', async (t) => {
  const wrong = uploadSubject((bytes) => {
    const sections = decodeSections(bytes);
    for (const { table } of sections) {
      const slots = new Uint8Array(table.slots);
      slots[0] = (slots[0] as number) ^ 1;
    }
    return sections;
  });
  t.match(await firstFailure(wrong), /entries/);
  t.match(await firstFailure(uploadSubject(() => [])), /refused: undefined/);
  const lost = regionFileSubject(async (bytes, table) => {
    return (await restoredRegions(bytes, table)).slice(1);
  });
  t.match(await firstFailure(lost), /tables, wanted/);
  const thrown = regionFileSubject(async () => {
    throw new TypeError('no table');
  });
  t.match(await firstFailure(thrown), /TypeError/);
});

t.test('mappings: a word that is left out', async (t) => {
  const subject = mappingsSubject((words, table) => new Mappings(words.slice(0, 3), 0, table));
  t.match(await firstFailure(subject), /paths \[|refused/);
});

t.test('state files: a line is lost, no text is taken, a problem is not told', async (t) => {
  const shorter = stateFileSubject((bytes) => {
    const parsed = parseTableFile(bytes);
    return { ...parsed, table: `${parsed.table.trimEnd()} more` };
  });
  t.match(await firstFailure(shorter), /Finding/);
  const lax = stateFileSubject(() => ({ table: '', readOnly: false, formerly: null }));
  t.match(await firstFailure(lax), /took what is no text/);
  const silent = stateDirectorySubject(async (files) => {
    return { ...(await loadDirectory(files)), problems: [] };
  });
  t.match(await firstFailure(silent), /devices and problems/);
});

t.test('pre-shared keys: a refusal that tells one, a key of somebody else', async (t) => {
  const telling = pskSubject((text) => {
    throw new MapperError(EINVAL, `line 1: found ${text}`);
  });
  t.match(await firstFailure(telling), /tells a key/);
  const other = pskSubject(() => new Map([['alice', Buffer.alloc(16, 0x5c)]]));
  t.match(await firstFailure(other), /not in the file/);
});

t.test('tables: something is left', async (t) => {
  const host = new DeviceHost();
  const disk = host.disk('/x', 4096);
  host.settleDown();
  host.checkRest();
  host.engine.open('/x');
  t.equal(disk.descriptors, 1);
  t.throws(() => host.checkRest(), /descriptors: 1 are left/);
  await t.rejects(host.wait(new Promise(() => {})), /somebody waits/);
  const subject = await makeTableSubject((host) => void host.engine.arena.allocate(1));
  t.match(await firstFailure(subject), /bytes of the arena/);
});

t.test('COWs: what is read is not what the format says', async (t) => {
  t.equal(await firstFailure(makeCowSubject(), 100), null);
  const lax = makeCowSubject((disk, asked, sectors) => {
    return readStore(disk, asked, sectors) ?? readStore(Buffer.alloc(65_536), 8, sectors);
  });
  t.match(await firstFailure(lax), /refused, or not/);
  const fewer = makeCowSubject((disk, asked, sectors) => {
    const store = readStore(disk, asked, sectors);
    if (store === null || store.exceptions.size < 2) return store;
    const exceptions = new Map([...store.exceptions].map(([one, other]) => [one ^ 1, other]));
    return { ...store, exceptions };
  });
  t.match(await firstFailure(fewer), /Finding: byte|the origin is not/);
  const still = makeCowSubject(readStore, (place) => ({ ...place, turn: async () => {} }));
  t.match(await firstFailure(still), /turns, and it is at/, 'a merge that hangs');
  const written = makeCowSubject(readStore, (place) => ({
    ...place,
    origin: async () => Buffer.from(await place.origin()).fill(0, 0, 1),
  }));
  t.match(await firstFailure(written), /the origin has changed|the origin is not/);
  const unmarked = makeCowSubject(readStore, (place) => ({
    ...place,
    storedCow: async () => Buffer.from(await place.storedCow()).fill(0, 4, 8),
  }));
  t.match(await firstFailure(unmarked), /its COW (false|invalid)|the COW is not empty/);
});

t.test('refusals must be such, and say why', async (t) => {
  t.throws(() => checkedRefusal(new TypeError('x is not a function')), /x is not/);
  t.throws(() => reasonedRefusal(new MapperError(EINVAL, 'bad')), /without a reason/);
  t.throws(() => checkedRefusal(new MapperError(EINVAL, '')), /a refusal of 0 characters/);
  t.throws(
    () =>
      refusalOf(() => {
        throw new RangeError('Invalid array length');
      }),
    RangeError,
  );
  t.match(reasonedRefusal(new MapperError(EINVAL, 'found 3, wanted 4')), { errno: EINVAL });
});

t.test('memory that nobody has written shows', (t) => {
  const arena = new PoisonedArena(4 * 2 ** 20);
  const block = arena.allocate(5000);
  arena.bytes.fill(1, block, block + 5000);
  refusePoison(arena.bytes.subarray(block, block + 5000), 'a block');
  t.throws(() => refusePoison(arena.bytes.subarray(block, block + 8192), 'its rest'), /at 5000/);
  arena.free(block, 5000);
  t.throws(() => refusePoison(arena.bytes.subarray(block, block + 5000), 'given back'), /at 0/);
  arena.checkZeroes();
  t.end();
});

t.test('a failure is made small, and comes again from its seed and number', async (t) => {
  const subject: Subject = {
    name: 'made up',
    generate: (random) => ({
      variant: random.bits(),
      pieces: Array.from({ length: 20 }, () => random.bytes(30)),
    }),
    check({ pieces }: Input) {
      const all = Buffer.concat(pieces);
      if (all.includes(0x55) && all.includes(0xaa)) throw new Error('both are there');
    },
  };
  const { failure } = await run(() => subject, 7, 100);
  t.ok(failure !== null);
  if (failure === null) return;
  t.ok(inputBytes(failure.small) <= 2, JSON.stringify(writeInput(failure.small)));
  t.same(inputOf(subject, 7, failure.number), failure.input);
  t.same(readInput(writeInput(failure.input)), failure.input);
  const never = await minimise(failure.input, async () => false);
  t.same(never, failure.input);
  const random = new Random(1);
  for (let i = 0; i < 1000; i++) {
    const edge = random.edge(16);
    if (!(Number.isInteger(edge) && edge >= 0 && edge < 65_536)) t.fail(`edge ${edge}`);
  }
});
