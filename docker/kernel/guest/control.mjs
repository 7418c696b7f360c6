/**
 * Runs commands of mapperctl in one process, because a Node takes seconds to start in the guest. A
 * client sends the number of words and the words, each with a NUL behind it; it gets a line with
 * the exit status, and what the command has printed.
 */

import { createServer } from 'node:net';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [, , dist] = process.argv;
const load = (path) => import(pathToFileURL(join(dist, 'src', path)).href);
const { commands } = await load('ctl/commands.js');
const { parseCommand } = await load('ctl/command.js');
const { ControlClient } = await load('ctl/client.js');
const { defaultControlPath } = await load('control/control-path.js');

async function run(words) {
  let output = '';
  let client;
  try {
    const { command, words: rest, options } = parseCommand(words, commands);
    client = await ControlClient.connect([options.text('control') ?? defaultControlPath()]);
    await command.run({
      words: rest,
      options,
      client,
      print: (result, text) => {
        output += options.flag('json') ? `${JSON.stringify(result)}\n` : text;
      },
    });
    return `0\n${output}`;
  } catch (error) {
    return `1\n${output}mapperctl: ${error.message}\n`;
  } finally {
    await client?.close();
  }
}

const server = createServer((socket) => {
  let text = '';
  socket.setEncoding('utf8');
  socket.on('error', () => {});
  socket.on('data', async (chunk) => {
    text += chunk;
    const [count, ...words] = text.split('\0');
    if (words.length <= Number(count)) return;
    socket.removeAllListeners('data');
    socket.end(await run(words.slice(0, -1)));
  });
});
server.listen(7, '127.0.0.1');
