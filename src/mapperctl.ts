#!/usr/bin/env node
/** The control command: one request to a running daemon, its answer on standard output. */

import { buffer, text } from 'node:stream/consumers';
import { EINVAL } from './base/errno.js';
import { MapperError, messageOf } from './base/errors.js';
import { packageVersion } from './base/version.js';
import {
  defaultControlPath,
  embeddedControlPath,
  serviceControlPath,
} from './control/control-path.js';
import { readToken } from './control/token.js';
import { ControlClient } from './ctl/client.js';
import {
  type Command,
  type OptionValues,
  type ParsedCommand,
  parseCommand,
} from './ctl/command.js';
import { commands } from './ctl/commands.js';
import { commandHelp, helpText } from './ctl/help.js';

/** Known only here, because it needs no daemon. */
const help: Command = {
  name: 'help',
  usage: '[COMMAND]',
  summary: "print the help, or a command's usage",
  minWords: 0,
  maxWords: 1,
  run: async () => {},
};

async function main(): Promise<void> {
  const parsed = parseCommand(process.argv.slice(2), [...commands, help]);
  const { command, options } = parsed;
  if (command === null && options.flag('version')) {
    process.stdout.write(`mapperctl ${packageVersion()}\n`);
  } else if (command === help || options.flag('help')) {
    process.stdout.write(helpFor(command === help ? parsed.words[0] : command?.name));
  } else if (command === null) {
    throw new MapperError(EINVAL, 'no command given (mapperctl help lists them)');
  } else {
    await run(command, parsed);
  }
}

function helpFor(name: string | undefined): string {
  if (name === undefined) return helpText(commands);
  const command = commands.find((one) => one.name === name || one.alias === name);
  if (command !== undefined) return commandHelp(command);
  throw new MapperError(EINVAL, `unknown command "${name}" (mapperctl help lists them)`);
}

async function run(command: Command, { words, options }: ParsedCommand): Promise<void> {
  const path = options.text('control');
  const usual = [defaultControlPath(), embeddedControlPath, serviceControlPath];
  const paths = path === undefined ? usual : [path];
  const client = command.offline?.(words) === true ? null : await connect(paths, options);
  const json = options.flag('json');
  try {
    await command.run({
      words,
      options,
      get client() {
        if (client === null) throw new Error('this command has no daemon');
        return client;
      },
      print: (result, lines) => {
        process.stdout.write(json ? `${JSON.stringify(result)}\n` : lines);
      },
      readInput: () => text(process.stdin),
      readInputBytes: () => buffer(process.stdin),
      writeOutput: (bytes) => {
        process.stdout.write(bytes);
      },
    });
  } finally {
    await client?.close();
  }
}

async function connect(paths: readonly string[], options: OptionValues): Promise<ControlClient> {
  const file = options.text('token-file');
  return ControlClient.connect(paths, file === undefined ? null : await readToken(file));
}

// A reader that has seen enough (head, say) is no failure.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  process.exit(error.code === 'EPIPE' ? 0 : 1);
});

try {
  await main();
} catch (error) {
  process.stderr.write(`mapperctl: ${messageOf(error)}\n`);
  process.exitCode = 1;
}
