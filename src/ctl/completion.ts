/**
 * Shell completion of both commands, made from their tables of options and commands. A script for
 * bash needs nothing but bash; names of devices are asked from the daemon, if one runs.
 */

import { EINVAL } from '../base/errno.js';
import { MapperError } from '../base/errors.js';
import { type OptionRow, optionRows } from '../daemon/option-table.js';
import { type Command, globalOptions } from './command.js';

/** The help is known to the program alone; completion knows it, too. */
const helpCommand = { name: 'help', usage: 'COMMAND', options: {} } as const;

type Completed = Pick<Command, 'name' | 'alias' | 'usage' | 'options'>;

export function completionCommand(commands: () => readonly Command[]): Command {
  return {
    name: 'completion',
    usage: 'bash',
    summary: 'print the shell completion of mapperd and mapperctl, to be sourced',
    minWords: 1,
    maxWords: 1,
    offline: () => true,
    run: async ({ words: [shell], print }) => {
      if (shell !== 'bash') {
        throw new MapperError(EINVAL, `completion: found shell "${shell}", wanted bash`);
      }
      const script = bashCompletion([...commands(), helpCommand]);
      print(script, script);
    },
  };
}

export function bashCompletion(commands: readonly Completed[]): string {
  return [common, daemonFunction(), controlFunction(commands), registration].join('\n');
}

const common = `# Completion for mapperd and mapperctl, made by "mapperctl completion bash".

# The word at the cursor and the one before it; bash takes the "=" of --option=value for a word.
_mapperd_here() {
  current=\${COMP_WORDS[COMP_CWORD]}
  previous=\${COMP_WORDS[COMP_CWORD - 1]}
  if [[ $current == = ]]; then
    current=
  elif [[ $previous == = ]]; then
    previous=\${COMP_WORDS[COMP_CWORD - 2]}
  fi
}

_mapperd_words() {
  COMPREPLY+=($(compgen -W "$*" -- "$current"))
}

_mapperd_files() {
  local IFS=$'\\n'
  compopt -o filenames 2>/dev/null
  COMPREPLY+=($(compgen "$1" -- "$current"))
}

_mapperd_devices() {
  local name open socket=() index
  for ((index = 1; index < COMP_CWORD; index++)); do
    case \${COMP_WORDS[index]} in
      -c | --control) socket+=(-c "\${COMP_WORDS[index + 1]}") ;;
      --token-file) socket+=(--token-file "\${COMP_WORDS[index + 1]}") ;;
    esac
  done
  while IFS=$'\\t' read -r name open; do
    [[ -n $open ]] || continue
    name=$(printf %q "$name")
    [[ $name == "$current"* ]] && COMPREPLY+=("$name")
  done < <(mapperctl "\${socket[@]}" ls 2>/dev/null)
}
`;

const registration = `complete -F _mapperd mapperd
complete -F _mapperctl mapperctl
`;

function daemonFunction(): string {
  const lines: string[] = [];
  for (const row of optionRows) {
    if (row.value === undefined) continue;
    lines.push(`    ${spellings(row).join(' | ')}) ${answerTo(row)}return ;;`);
  }
  const words = optionRows.flatMap((row) => [
    ...(row.short === undefined ? [] : [`-${row.short}`]),
    `--${row.name}`,
  ]);
  return `_mapperd() {
  local current previous
  COMPREPLY=()
  _mapperd_here
  case $previous in
${lines.join('\n')}
  esac
  if [[ $current == -* ]]; then
    _mapperd_words ${words.join(' ')}
  else
    _mapperd_files -f
  fi
}
`;
}

function spellings({ name, short, aliases = [] }: OptionRow): string[] {
  const long = [name, ...aliases].map((word) => `--${word}`);
  return short === undefined ? long : [`-${short}`, ...long];
}

/** What stands behind an option with a value. */
function answerTo({ completes }: OptionRow): string {
  if (completes === undefined) return '';
  if (typeof completes !== 'string') return `_mapperd_words ${completes.join(' ')}; `;
  const actions = { file: '-f', directory: '-d', command: '-c', user: '-u', group: '-g' };
  return `_mapperd_files ${actions[completes]}; `;
}

function controlFunction(commands: readonly Completed[]): string {
  const names = commands.map(({ name }) => name);
  const global = optionWords(globalOptions);
  const cases = commands.map((command) => commandCase(command, global, names));
  return `_mapperctl() {
  local current previous command= index words=()
  COMPREPLY=()
  _mapperd_here
  # What stands before the cursor, but for options and the values of the daemon's socket.
  for ((index = 1; index < COMP_CWORD; index++)); do
    case \${COMP_WORDS[index]} in
      -c | --control | --token-file) ((index++)) ;;
      -* | =) ;;
      *) words+=("\${COMP_WORDS[index]}") ;;
    esac
  done
  command=\${words[0]}
  case $previous in
    -c | --control | --token-file) _mapperd_files -f; return ;;
  esac
  case $command in
    '')
      if [[ $current == -* ]]; then
        _mapperd_words ${global.join(' ')}
      else
        _mapperd_words ${names.join(' ')}
      fi
      ;;
${cases.join('\n')}
  esac
}
`;
}

function commandCase(
  { name, alias, usage, options = {} }: Completed,
  global: readonly string[],
  names: readonly string[],
): string {
  const values = Object.entries(options).filter(([, { type }]) => type === 'string');
  const paths = values.filter(([option]) => pathOptions.has(option));
  const others = values.filter(([option]) => !pathOptions.has(option));
  // Behind such an option the rest of the line is about its value.
  const value = [
    valueCase(Object.fromEntries(paths), '_mapperd_files -f; return'),
    valueCase(Object.fromEntries(others), 'return'),
  ].join('\n');
  const parts = usage.split(/\n\s*\|/).map((part) => part.trim());
  const firsts = [...new Set(parts.flatMap((part) => /^[a-z][a-z-]*/.exec(part) ?? []))];
  const later = name === 'help' ? `_mapperd_words ${names.join(' ')}` : wordsOf(usage);
  const body =
    firsts.length === 0
      ? later
      : `if [[ \${#words[@]} -eq 1 ]]; then _mapperd_words ${firsts.join(' ')}; else ${later}; fi`;
  return `    ${alias === undefined ? name : `${name} | ${alias}`})
${value}
      if [[ $current == -* ]]; then
        _mapperd_words ${[...optionWords(options), ...global].join(' ')}
      else
        ${body}
      fi
      ;;`.replace(/^\s*\n/gm, '');
}

function valueCase(options: NonNullable<Command['options']>, answer: string): string {
  const pattern = optionWords(options).join(' | ');
  return pattern === '' ? '' : `      case $previous in ${pattern}) ${answer} ;; esac`;
}

const pathOptions = new Set(['cow', 'directory', 'save', 'svg']);

/** What the words that are no options can be, from the placeholders in a command's usage. */
function wordsOf(usage: string): string {
  // An option's own placeholder is its value.
  const places = usage.replaceAll(/--?[a-z][a-z-]*(?: [A-Z_]+)?/g, '').match(/[A-Z_]{2,}/g) ?? [];
  const devices = ['NAME', 'ORIGIN', 'SOURCE', 'DEVICE', 'SNAPSHOT'];
  const files = ['FILE', 'SOURCE', 'DESTINATION', 'IN', 'OUT'];
  const answers: string[] = [];
  if (places.some((place) => devices.includes(place))) answers.push('_mapperd_devices');
  if (places.some((place) => files.includes(place)) || usage.includes('/dev/')) {
    answers.push('_mapperd_files -f');
  }
  return answers.length === 0 ? ':' : answers.join('; ');
}

function optionWords(options: NonNullable<Command['options']>): string[] {
  return Object.entries(options).flatMap(([name, { short }]) => [
    ...(short === undefined ? [] : [`-${short}`]),
    `--${name}`,
  ]);
}
