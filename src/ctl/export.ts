/** The command about exports: what their owners say of them, and who has them. */

import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import type { NamedExport, Params } from '../control/messages.js';
import type { Command, Invocation, OptionValues } from './command.js';
import { formatExport, formatExports } from './format.js';

/** Options that say yes and no to the same thing. */
const opposites = [
  ['read-only', 'read-write', 'readOnly'],
  ['hidden', 'listed', 'hidden'],
] as const;

async function exportCommand(call: Invocation): Promise<void> {
  const [name] = call.words;
  const change = changeIn(call.options);
  if (name !== undefined) {
    const one = (await call.client.call('export', { ...change, name })) as NamedExport;
    call.print(one, formatExport(one));
    return;
  }
  const [option] = Object.keys(change);
  if (option !== undefined) {
    throw new MapperError(EINVAL, 'found a change and no name: a change is for one device');
  }
  const all = (await call.client.call('export', {})) as NamedExport[];
  call.print(all, formatExports(all));
}

function changeIn(options: OptionValues): Omit<Params<'export'>, 'name'> {
  const change: Omit<Params<'export'>, 'name'> = {};
  for (const [yes, no, key] of opposites) {
    if (options.flag(yes) && options.flag(no)) {
      throw new MapperError(EINVAL, `found --${yes} and --${no}, wanted one of them`);
    }
    if (options.flag(yes)) change[key] = true;
    if (options.flag(no)) change[key] = false;
  }
  const description = options.text('description')?.trim();
  if (description !== undefined) change.description = description === '' ? null : description;
  const allow = options.texts('allow');
  if (allow !== undefined) change.allow = blocksIn(allow);
  const connections = options.text('connections');
  if (connections !== undefined) change.connections = countIn(connections);
  return change;
}

/** `all` stands alone. */
function blocksIn(texts: readonly string[]): string[] {
  const blocks = texts.flatMap((text) => text.split(',')).map((block) => block.trim());
  if (!blocks.includes('all')) return blocks;
  if (blocks.length === 1) return [];
  throw new MapperError(EINVAL, '--allow: found "all" among addresses, wanted it alone');
}

function countIn(text: string): number | null {
  if (text === 'any') return null;
  if (/^[0-9]{1,9}$/.test(text)) return Number(text);
  throw new MapperError(EINVAL, `--connections: found "${text}", wanted a number or "any"`);
}

export const exportCommands: readonly Command[] = [
  {
    name: 'export',
    usage:
      '[NAME] [--read-only | --read-write] [--description TEXT] [--hidden | --listed] ' +
      '[--allow CIDR,... | --allow all] [--connections N | --connections any]',
    summary: 'print who may have an export and how, or change it for clients that come later',
    minWords: 0,
    maxWords: 1,
    options: {
      'read-only': { type: 'boolean', short: 'r' },
      'read-write': { type: 'boolean', short: 'w' },
      description: { type: 'string', short: 'D' },
      hidden: { type: 'boolean' },
      listed: { type: 'boolean' },
      allow: { type: 'string', multiple: true },
      connections: { type: 'string' },
    },
    run: exportCommand,
  },
];
