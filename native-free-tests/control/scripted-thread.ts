/** A queue thread that does as it is told: the command's name says how it answers. */

import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { EBUSY } from '../../src/base/errno.js';
import type { Call } from '../../src/queue/mailbox.js';

function serve(port: MessagePort): void {
  const { engine } = workerData as { engine: string };
  if (engine === 'uring') {
    port.postMessage({ failed: 'engine uring: not here' });
    port.close();
    return;
  }
  port.postMessage({ event: 'log', level: 'info', fields: {}, text: 'early' });
  port.postMessage({ ready: { engine: 'node', reason: 'told so', wakeFd: null } });
  port.on('message', ({ id, command, params }: Call) => {
    switch (command) {
      case 'info':
        port.postMessage({ id, result: params });
        break;
      case 'remove':
        port.postMessage({ id, error: { errno: EBUSY, message: 'in use' } });
        break;
      case 'suspend':
        // Never answers.
        break;
      case 'clear':
        port.postMessage({ event: 'device', name: 'a', what: 'suspend' });
        port.postMessage({ id, result: null });
        break;
      case 'resume':
        throw new Error('fault in the thread');
      case 'shutdown':
        port.postMessage({ id, result: null });
        port.close();
        break;
      default:
        process.exit(3);
    }
  });
}

if (parentPort !== null) serve(parentPort);
