/** The help text, made from the table of options. */

import { type OptionRow, optionGroups } from './option-table.js';

const columns = 80;
/** Where the summaries begin. */
const indent = 26;

const head = `Usage: mapperd [options] [IMAGE]

Serves device-mapper devices over NBD. IMAGE, a file or block device, is served
as the default export. Without IMAGE, --device and --state the directory ./state
is used, made with a first volume of 1 GiB and a snapshot of it if it is empty,
and served on TCP and on ./state/nbd.sock.
`;

const foot = `
Under socket activation (LISTEN_FDS, LISTEN_PID) the sockets that are passed are
served; -p, -i, -U, -s and --run are errors then.

SIGTERM, SIGINT, SIGQUIT and SIGHUP end it: what is in flight is finished and
flushed. A second one ends it at once.
`;

export function usageText(): string {
  const groups = optionGroups.map(
    ({ title, rows }) => `\n${title}:\n${rows.map(optionText).join('')}`,
  );
  return head + groups.join('') + foot;
}

function optionText({ name, short, value, summary }: OptionRow): string {
  const letters = short === undefined ? '    ' : `-${short}, `;
  const title = `  ${letters}--${name}${value === undefined ? '' : ` ${value}`}`;
  const lines = wrap(summary, columns - indent);
  const begin = title.length < indent ? title.padEnd(indent) : `${title}\n${' '.repeat(indent)}`;
  return `${begin}${lines.join(`\n${' '.repeat(indent)}`)}\n`;
}

function wrap(text: string, width: number): string[] {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === '' ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}
