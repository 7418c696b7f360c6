/** What the control plane does to table text; the grammar itself is in device/table-text.ts. */

import { deviceNamed } from '../backing/device.js';
import { parseTable, quoteWord, splitWords } from '../device/table-text.js';

/** The text without comments, empty lines and blanks around lines. Grammar is not looked at. */
export function stripComments(text: string): string {
  const lines = text.split('\n').map(trimLine);
  return lines.filter((line) => line !== '' && !line.startsWith('#')).join('\n');
}

/** Without blanks that the grammar does not see: one that is kept by a backslash is of a word. */
function trimLine(line: string): string {
  const begin = line.search(/[^ \t\r]/);
  let end = 0;
  for (let at = 0; at < line.length; at++) {
    if (line[at] === '\\') at++;
    else if (/[ \t\r]/.test(line[at] as string)) continue;
    end = at + 1;
  }
  return begin < 0 ? '' : line.slice(begin, end);
}

/** The devices that a table stands on. Throws MapperError for text that is not a table. */
export function tableDependencies(text: string): string[] {
  const names = new Set<string>();
  for (const line of parseTable(text)) {
    for (const word of line.args) {
      const name = deviceNamed(word);
      if (name !== null) names.add(name);
    }
  }
  return [...names];
}

/** The text with another name for a device that it stands on; lines without it stay as they are. */
export function renameInTable(text: string, from: string, to: string): string {
  return text
    .split('\n')
    .map((line) => {
      const words = splitWords(line);
      if (words[0]?.startsWith('#') || !words.some((word) => deviceNamed(word) === from)) {
        return line;
      }
      return words.map((word) => quoteWord(renamedWord(word, from, to))).join(' ');
    })
    .join('\n');
}

function renamedWord(word: string, from: string, to: string): string {
  return deviceNamed(word) === from ? word.slice(0, word.length - from.length) + to : word;
}
