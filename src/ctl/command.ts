/** What a command of mapperctl is, and how its words and options are read. */

import { type ParseArgsConfig, parseArgs } from 'node:util';
import { EINVAL } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import type { ControlClient } from './client.js';

type Options = NonNullable<ParseArgsConfig['options']>;

export interface Command {
  readonly name: string;
  readonly alias?: string;
  /** Words and options, as the help shows them. */
  readonly usage: string;
  readonly summary: string;
  readonly minWords: number;
  readonly maxWords: number;
  readonly options?: Options;
  /** From the first word on nothing is an option: a device message may begin with a dash. */
  readonly rawWords?: boolean;
  /** With these words it needs no daemon. */
  offline?(words: readonly string[]): boolean;
  run(call: Invocation): Promise<void>;
}

/** One run of a command. */
export interface Invocation {
  readonly words: readonly string[];
  readonly options: OptionValues;
  readonly client: ControlClient;
  /** Prints the raw result with --json, else the text. */
  print(result: unknown, text: string): void;
  readInput(): Promise<string>;
  readInputBytes(): Promise<Uint8Array>;
  /** Bytes to standard output, as they are. */
  writeOutput(bytes: Uint8Array): void;
}

/** Option values by name, typed by how they are asked for. */
export class OptionValues {
  readonly #values: Readonly<Record<string, unknown>>;

  constructor(values: Readonly<Record<string, unknown>>) {
    this.#values = values;
  }

  flag(name: string): boolean {
    return this.#values[name] === true;
  }

  text(name: string): string | undefined {
    const value = this.#values[name];
    return typeof value === 'string' ? value : undefined;
  }

  /** Of an option that may be given several times. */
  texts(name: string): string[] | undefined {
    const value = this.#values[name];
    return Array.isArray(value) ? value.map(String) : undefined;
  }
}

export const globalOptions = {
  control: { type: 'string', short: 'c' },
  'token-file': { type: 'string' },
  json: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
  version: { type: 'boolean', short: 'V' },
} as const satisfies Options;

export interface ParsedCommand {
  /** null: none was given. */
  readonly command: Command | null;
  readonly words: readonly string[];
  readonly options: OptionValues;
}

/** Reads a command line, the command's name being its first word. Throws MapperError EINVAL. */
export function parseCommand(args: readonly string[], commands: readonly Command[]): ParsedCommand {
  const at = firstWord(args, 0);
  const name = args[at];
  if (name === undefined) {
    return { command: null, words: [], options: parse([...args], globalOptions).options };
  }
  const command = commands.find((one) => one.name === name || one.alias === name);
  if (command === undefined) {
    throw new MapperError(EINVAL, `unknown command "${name}" (mapperctl help lists them)`);
  }
  const rest = [...args.slice(0, at), ...args.slice(at + 1)];
  if (command.rawWords) rest.splice(firstWord(rest, at), 0, '--');
  const { words, options } = parse(rest, { ...globalOptions, ...command.options });
  const count = words.length;
  if (!options.flag('help') && (count < command.minWords || count > command.maxWords)) {
    throw new MapperError(EINVAL, `found ${count} words, wanted: ${usageOf(command)}`);
  }
  return { command, words, options };
}

export function usageOf(command: Command): string {
  return `mapperctl ${command.name}${command.usage === '' ? '' : ` ${command.usage}`}`;
}

/** Where the first word from `start` on is that is neither a global option nor its value. */
function firstWord(args: readonly string[], start: number): number {
  let at = start;
  for (; at < args.length; at++) {
    const arg = args[at] as string;
    if (arg === '-c' || arg === '--control' || arg === '--token-file') at++;
    else if (!arg.startsWith('-') || arg === '-') break;
  }
  return Math.min(at, args.length);
}

function parse(args: string[], options: Options): { words: string[]; options: OptionValues } {
  try {
    const { values, positionals } = parseArgs({ args, options, allowPositionals: true });
    return { words: positionals, options: new OptionValues(values) };
  } catch (error) {
    const text = messageOf(error).split('. ')[0] as string;
    throw new MapperError(EINVAL, text.charAt(0).toLowerCase() + text.slice(1));
  }
}
