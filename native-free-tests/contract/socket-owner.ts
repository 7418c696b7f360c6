/**
 * A program that owns a listening socket and shares it: its descriptor goes to the parent process,
 * as systemd's would. The owner then is deaf (it is asleep in a read of its standard input) until a
 * byte comes; from then on it accepts, and tells of each connection.
 */

import { readSync } from 'node:fs';
import { createServer } from 'node:net';

const server = createServer((socket) => {
  socket.destroy();
  process.send?.({ accepted: true });
});
server.listen(JSON.parse(process.argv[2] as string), () => {
  // Node sends a handle of its own as it is.
  const handle = (server as unknown as { _handle: never })._handle;
  process.send?.({ address: server.address() }, handle, {}, () => readSync(0, Buffer.alloc(1)));
});
process.on('disconnect', () => process.exit());
