/**
 * A process that serves its standard input and output through a gate, to a queue that sends back
 * what it gets, behind a line about the client. Arguments: the TLS mode and the file of keys.
 */

import { Gate } from '../../src/gate/gate.js';
import { FakeQueue } from './rig.js';

const [mode, psk = null] = process.argv.slice(2) as ['off' | 'require', string?];
const queue = new FakeQueue();
const say = (_fields: object, text: string): void => {
  process.stderr.write(`${text}\n`);
};
const log = { debug: () => {}, info: say, warn: say, error: say };

try {
  const tls = { mode, certificates: null, psk, verifyPeer: false };
  const gate = await Gate.open({ tls, queue, log, handshakeMilliseconds: 10_000 });
  process.on('exit', () => gate.removeTraces());
  void queue.next().then(async ({ preamble, socket, inbox }) => {
    socket.write(`${JSON.stringify(preamble.peer)}\n`);
    for (;;) {
      const piece = await inbox.take(Math.max(1, inbox.bytes));
      if (piece.length === 0) break;
      socket.write(piece);
    }
    socket.end();
  });
  await gate.serveStdio();
  process.stderr.write('the client has gone\n');
  await gate.close();
  process.exit(0);
} catch (error) {
  process.stderr.write(`refused: ${(error as Error).message}\n`);
  process.exit(1);
}
