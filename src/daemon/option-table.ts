/**
 * The daemon's options, a row for each, in nbdkit's words: what parses them, the help and the shell
 * completion are made from it.
 */

/** What may follow an option, for completion. */
export type Completes = 'file' | 'directory' | 'command' | 'user' | 'group' | readonly string[];

export interface OptionRow {
  readonly name: string;
  readonly short?: string;
  /** Other spellings, nbdkit's and qemu-nbd's; they are not in the help. */
  readonly aliases?: readonly string[];
  /** What follows it, as the help has it; without: it is a flag. */
  readonly value?: string;
  readonly multiple?: true;
  readonly completes?: Completes;
  readonly summary: string;
}

export interface OptionGroup {
  readonly title: string;
  readonly rows: readonly OptionRow[];
}

export const defaultPort = 10809;
export const defaultHost = '127.0.0.1';

export const optionGroups: readonly OptionGroup[] = [
  {
    title: 'What is served',
    rows: [
      { name: 'read-only', short: 'r', aliases: ['readonly'], summary: 'refuse writes' },
      {
        name: 'export-name',
        short: 'e',
        aliases: ['exportname', 'export'],
        value: 'NAME',
        summary:
          "name of IMAGE's device (its file name); without IMAGE, the device that the empty export name means",
      },
      {
        name: 'description',
        short: 'D',
        value: 'TEXT',
        summary: "what IMAGE's export says about itself (the kinds of its targets)",
      },
      {
        name: 'state',
        value: 'DIR',
        completes: 'directory',
        summary: 'directory that keeps the devices over a restart',
      },
      {
        name: 'device',
        value: "'NAME: LINE[; LINE...]'",
        multiple: true,
        summary:
          'a device and its table, as dmsetup writes it; repeatable; not kept in DIR: it comes from here each time',
      },
    ],
  },
  {
    title: 'To whom',
    rows: [
      {
        name: 'port',
        short: 'p',
        value: 'PORT',
        multiple: true,
        summary: `TCP port (${defaultPort}; 0: one that is free, told when ready); repeatable`,
      },
      {
        name: 'ip-addr',
        short: 'i',
        aliases: ['ipaddr'],
        value: 'ADDRESS[:PORT]',
        multiple: true,
        summary: `TCP address (${defaultHost}), for every -p or with a port of its own (of IPv6: [ADDRESS]:PORT); repeatable`,
      },
      {
        name: 'unix',
        short: 'U',
        value: 'PATH',
        multiple: true,
        completes: 'file',
        summary:
          'unix socket, or "-": one in a private folder, gone at the end; then no TCP, unless -p or -i is given too; repeatable',
      },
      {
        name: 'allow',
        value: 'CIDR',
        multiple: true,
        summary:
          'addresses that are served over TCP, as 192.0.2.7 or 2001:db8::/32 (all); repeatable; unix sockets are always served',
      },
      {
        name: 'tls',
        value: 'MODE',
        completes: ['off', 'on', 'require'],
        summary: 'off; on: for clients that ask for it; require: for all clients (off)',
      },
      {
        name: 'tls-certificates',
        value: 'DIR',
        completes: 'directory',
        summary: 'directory of ca-cert.pem, server-cert.pem, server-key.pem, perhaps ca-crl.pem',
      },
      {
        name: 'tls-psk',
        value: 'FILE',
        completes: 'file',
        summary: 'pre-shared keys instead of certificates, a line "user:hexkey" for each',
      },
      { name: 'tls-verify-peer', summary: 'clients must show a certificate of our CA' },
    ],
  },
  {
    title: 'How it runs',
    rows: [
      {
        name: 'single',
        short: 's',
        aliases: ['stdin'],
        summary: 'serve one client on standard input and output, and end with it',
      },
      {
        name: 'run',
        value: 'CMD',
        completes: 'command',
        summary:
          'serve the shell command CMD, which finds $uri, $unixsocket, $port, $exportname and $tls, and end with its exit status; on a private unix socket unless -p, -i or -U is given',
      },
      { name: 'exit-with-parent', summary: 'end when the parent process does' },
      { name: 'print-uri', summary: 'print the NBD URIs to standard output when ready' },
      {
        name: 'pidfile',
        short: 'P',
        aliases: ['pid-file'],
        value: 'PATH',
        completes: 'file',
        summary: 'file for the process id, written when clients can connect',
      },
      {
        name: 'user',
        short: 'u',
        value: 'USER',
        completes: 'user',
        summary: 'become USER (a name or number) once sockets are bound; files are opened as USER',
      },
      {
        name: 'group',
        short: 'g',
        value: 'GROUP',
        completes: 'group',
        summary: "become a member of GROUP (USER's own)",
      },
      {
        name: 'control',
        value: 'PATH',
        multiple: true,
        completes: 'file',
        summary:
          'control socket, or "none" ($XDG_RUNTIME_DIR/mapperd.sock, else /run/mapperd.sock; with ./state as above, ./state/control.sock where that cannot be had; none with -s, --run and socket activation); tcp://ADDRESS:PORT: control over TCP, instead or, with a path, too',
      },
      {
        name: 'control-token-file',
        value: 'FILE',
        completes: 'file',
        summary: 'for control over TCP: a file whose first line clients must show, mode 0600',
      },
      {
        name: 'control-origin',
        value: 'ORIGIN',
        multiple: true,
        summary: 'web pages that may use control over TCP, as https://name:port (none); repeatable',
      },
      {
        name: 'allow-path',
        value: 'PATH',
        multiple: true,
        completes: 'directory',
        summary:
          'files that control clients may have opened: what is beneath PATH, or PATH itself (all); the state directory and what the command line names always are; repeatable',
      },
      {
        name: 'no-lock',
        summary: 'do not lock files against other daemons: who knows that they only read, say',
      },
      {
        name: 'engine',
        value: 'ENGINE',
        completes: ['auto', 'uring', 'node'],
        summary: 'auto, uring or node (auto)',
      },
      {
        name: 'busy-poll',
        value: 'MICROSECONDS',
        summary:
          'how long the uring engine looks for work before it sleeps, at most, and only while that pays; 0: not at all (50)',
      },
      {
        name: 'log-level',
        value: 'LEVEL',
        completes: ['error', 'warn', 'info', 'debug'],
        summary: 'error, warn, info, debug (info; warn with -s, --run and socket activation)',
      },
      {
        name: 'shutdown-timeout',
        value: 'TIME',
        summary:
          'time for finishing what is in flight when it is to end, as "30s"; then it tells what hangs, and ends with status 1; 0: for ever (1m)',
      },
      { name: 'verbose', short: 'v', summary: 'the same as --log-level debug' },
      {
        name: 'foreground',
        short: 'f',
        aliases: ['no-fork'],
        summary: 'nothing: it always stays in the foreground',
      },
    ],
  },
  {
    title: 'The protocol, to test clients',
    rows: [
      {
        name: 'timeout',
        value: 'TIME',
        summary: 'time for a handshake, as "500ms" or "2s"; 0: for ever (10s)',
      },
      { name: 'no-sr', summary: 'do not offer structured replies' },
      { name: 'no-eh', summary: 'do not offer extended headers' },
      { name: 'no-mc', summary: 'do not offer meta contexts' },
    ],
  },
  {
    title: 'What it is',
    rows: [
      { name: 'dump-config', summary: 'print what this program can do, as lines of key=value' },
      { name: 'version', short: 'V', summary: 'print the version' },
      { name: 'help', summary: 'print this' },
    ],
  },
];

export const optionRows: readonly OptionRow[] = optionGroups.flatMap(({ rows }) => rows);
