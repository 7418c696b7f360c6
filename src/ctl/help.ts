/** The help text, made from the table of commands. */

import { type Command, usageOf } from './command.js';

const head = `Usage: mapperctl [-c PATH] [--json] COMMAND [WORD...]

Administers a running mapperd, in dmsetup's words.

  -c, --control PATH   the daemon's control socket; without it the first of
                       $XDG_RUNTIME_DIR/mapperd.sock (/run/mapperd.sock if that is
                       not set), ./state/control.sock and
                       /run/mapperd/control.sock where a daemon answers;
                       tcp://HOST:PORT for control over TCP, which wants
      --token-file FILE  the token to be shown there, in a file of mode 0600
      --json           print the raw result
  -V, --version        print the version
  -h, --help           print this, or a command's usage

Commands:
`;

export function helpText(commands: readonly Command[]): string {
  const rows = commands.map(({ name, usage, summary }) => {
    const title = `  ${name}${usage === '' ? '' : ` ${usage}`}`;
    return `${title}\n        ${summary}\n`;
  });
  return `${head}${rows.join('')}  help [COMMAND]\n        print this, or a command's usage\n`;
}

export function commandHelp(command: Command): string {
  const alias = command.alias === undefined ? '' : ` (also: ${command.alias})`;
  return `Usage: ${usageOf(command)}\n  ${command.summary}${alias}\n`;
}
