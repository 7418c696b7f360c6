/** Replies as dmsetup prints them; each function gives whole lines. */

import { fillWarningPercent } from '../base/limits.js';
import { formatAge, formatBytes, formatMicroseconds } from '../base/sizes.js';
import type {
  DeviceLines,
  EventParams,
  ExportFacts,
  KnownDeviceInfo,
  MemoryFacts,
  NamedExport,
  NamedStats,
  SnapshotInfo,
  Version,
} from '../control/messages.js';
import type { LatencyStats } from '../device/counters.js';
import type { DeviceInfo, TableLine, TargetVersion } from '../queue/commands.js';

const noDevices = 'No devices found\n';

/** `0 2097152 linear /srv/vol0.img 0`, without a device's name. */
export function formatLines(lines: readonly TableLine[]): string {
  return lines.map((line) => `${lineText(line)}\n`).join('');
}

/** `vol0: 0 2097152 linear ...`; a device without a table has its name alone. */
export function formatNamedLines(devices: readonly DeviceLines[]): string {
  if (devices.length === 0) return noDevices;
  const all = devices.map(({ name, lines }) => {
    if (lines.length === 0) return `${name}: \n`;
    return lines.map((line) => `${name}: ${lineText(line)}\n`).join('');
  });
  return all.join('');
}

function lineText(line: TableLine): string {
  const words = line.words === '' ? '' : ` ${line.words}`;
  return `${line.beginSectors} ${line.lengthSectors} ${line.type}${words}`;
}

/** dmsetup's block for each device, an empty line between them. */
export function formatInfo(devices: readonly KnownDeviceInfo[]): string {
  if (devices.length === 0) return noDevices;
  return devices.map(infoBlock).join('\n');
}

function infoBlock(device: KnownDeviceInfo): string {
  const rows: [string, string | number][] = [
    ['Name', device.name],
    ['State', device.state + (device.readOnly ? ' (READ-ONLY)' : '')],
    ['Tables present', device.tables],
    ['Open count', device.openCount],
    ['Event number', device.eventNumber],
    ['Number of targets', device.targetCount],
    ['Size', `${device.sizeSectors} sectors (${formatBytes(device.sizeSectors * 512)})`],
    ['In flight', device.inFlight],
  ];
  if (device.created !== undefined) rows.push(['Snapshot taken', device.created]);
  if (device.dependencies.length > 0) rows.push(['Stands on', device.dependencies.join(', ')]);
  if (device.export !== undefined) rows.push(...exportRows(device.export));
  return formatRows(rows);
}

/** What holds for any export is not worth a line. */
function exportRows(facts: ExportFacts): [string, string][] {
  const rows: [string, string][] = [];
  const words = [facts.hidden ? 'hidden' : '', facts.readOnly ? 'read-only' : ''];
  const said = words.filter((word) => word !== '').join(', ');
  if (said !== '') rows.push(['Export', said]);
  if (facts.description !== null) rows.push(['Description', facts.description]);
  if (facts.allow.length > 0) rows.push(['Allowed', facts.allow.join(', ')]);
  return [...rows, ['Connections', connectionsText(facts)]];
}

function connectionsText({ clients, connections }: ExportFacts): string {
  return connections === null ? `${clients}` : `${clients} of at most ${connections}`;
}

function formatRows(rows: readonly (readonly [string, string | number])[]): string {
  return rows.map(([title, value]) => `${`${title}:`.padEnd(19)}${value}\n`).join('');
}

/** One export in full, what holds for any included. */
export function formatExport(one: NamedExport): string {
  return formatRows([
    ['Name', one.name],
    ['Export', one.hidden ? 'hidden' : 'listed'],
    ['Access', one.readOnly ? 'read-only' : 'as the device allows'],
    ['Description', one.description ?? 'the kinds of its targets'],
    ['Allowed', one.allow.join(', ') || 'all'],
    ['Connections', connectionsText(one)],
    ['Kept', one.stored ? 'in the state directory' : 'until the daemon ends'],
  ]);
}

/** One line an export. */
export function formatExports(exports: readonly NamedExport[]): string {
  if (exports.length === 0) return noDevices;
  const rows = exports.map((one) => [
    one.name,
    one.hidden ? 'hidden' : 'listed',
    one.readOnly ? 'ro' : '-',
    `${one.clients}`,
    one.connections === null ? '-' : `${one.connections}`,
    one.allow.join(',') || 'all',
    one.description ?? '-',
  ]);
  const titles = 'Name Export Access Conns Max Allowed Description'.split(' ');
  return formatColumns([titles, ...rows]);
}

/** One line a device. `Stat` as in dmsetup: Live, Inactive, suspended, read-only or write. */
export function formatInfoColumns(devices: readonly DeviceInfo[]): string {
  if (devices.length === 0) return noDevices;
  const rows = devices.map((device) => [
    device.name,
    statLetters(device),
    `${device.openCount}`,
    `${device.targetCount}`,
    `${device.eventNumber}`,
    `${device.sizeSectors}`,
  ]);
  return formatColumns([['Name', 'Stat', 'Open', 'Targ', 'Event', 'Sectors'], ...rows]);
}

function statLetters(device: DeviceInfo): string {
  // "INACTIVE" does not have the letters of "LIVE" in it.
  const live = device.tables.includes('LIVE') ? 'L' : '-';
  const inactive = device.tables.includes('INACTIVE') ? 'I' : '-';
  const suspended = device.state === 'SUSPENDED' ? 's' : '-';
  return live + inactive + suspended + (device.readOnly ? 'r' : 'w');
}

/** Left-aligned, as wide as their widest. */
function formatColumns(rows: readonly (readonly string[])[]): string {
  const widths = rows[0]?.map((_, at) => Math.max(...rows.map((row) => row[at]?.length ?? 0)));
  return rows
    .map(
      (row) =>
        `${row
          .map((cell, at) => cell.padEnd(widths?.[at] ?? 0))
          .join(' ')
          .trimEnd()}\n`,
    )
    .join('');
}

/** `vol0-real	(open: 2, hidden)` */
export function formatList(devices: readonly KnownDeviceInfo[]): string {
  if (devices.length === 0) return noDevices;
  const lines = devices.map((device) => {
    const hidden = device.export?.hidden === true ? ', hidden' : '';
    return `${device.name}\t(open: ${device.openCount}${hidden})\n`;
  });
  return lines.join('');
}

/** `1 dependencies  : (vol0)`, with the device's name in front where all were asked for. */
export function formatDependencies(devices: readonly DeviceInfo[], named: boolean): string {
  if (devices.length === 0) return noDevices;
  const lines = devices.map(({ name, dependencies }) => {
    const all = dependencies.map((one) => ` (${one})`).join('');
    return `${named ? `${name}: ` : ''}${dependencies.length} dependencies\t:${all}\n`;
  });
  return lines.join('');
}

/** One line a snapshot; a `!` behind the fill means that the COW should have more room. */
export function formatSnapshots(snapshots: readonly SnapshotInfo[], now: number): string {
  if (snapshots.length === 0) return 'No snapshots found\n';
  const rows = snapshots.map((one) => [
    one.name,
    one.origin,
    one.type,
    one.state,
    one.chunkSectors === 0 ? '-' : formatBytes(one.chunkSectors * 512),
    one.exceptions === null ? '-' : `${one.exceptions}`,
    one.usedBytes === null ? '-' : formatBytes(one.usedBytes),
    one.totalBytes === null ? '-' : formatBytes(one.totalBytes),
    one.percent === null ? '-' : fillText(one.percent),
    one.created === null ? '-' : formatAge(now - Date.parse(one.created)),
    one.cow,
  ]);
  const titles = 'Name Origin Type State Chunk Chunks Used Size Fill Age COW'.split(' ');
  return formatColumns([titles, ...rows]);
}

/** What is left to be done or known. */
export function formatNotes(notes: readonly string[]): string {
  return notes.map((note) => `note: ${note}\n`).join('');
}

function fillText(percent: number): string {
  return `${percent.toFixed(2)}%${percent >= fillWarningPercent ? ' !' : ''}`;
}

export function formatTargets(targets: readonly TargetVersion[]): string {
  return targets.map(({ name, version }) => `${name.padEnd(16)} v${version.join('.')}\n`).join('');
}

export function formatMemory(memory: MemoryFacts): string {
  const { arenaInUseBytes, replyBytesKept, poolInUseBytes, residentBytes } = memory;
  const of = (part: number, all: number): string => `${formatBytes(part)} of ${formatBytes(all)}`;
  return [
    `Resident:    ${of(residentBytes, memory.residentBytesMax)}`,
    `Buffers:     ${of(arenaInUseBytes, memory.arenaBytes)}, for replies kept ${formatBytes(replyBytesKept)}`,
    `Shared pool: ${of(poolInUseBytes, memory.poolBytes)}`,
    `Connections: ${memory.connections}`,
    `Requests:    ${memory.requests}`,
    `Operations:  ${memory.operations}\n`,
  ].join('\n');
}

export function formatVersion(client: string, daemon: Version): string {
  const reason = daemon.engineReason === null ? '' : ` (${daemon.engineReason})`;
  return [
    `mapperctl version: ${client}`,
    `mapperd version:   ${daemon.version}`,
    `Protocol:          ${daemon.protocol}`,
    `Engine:            ${daemon.engine}${reason}`,
    `Process:           ${daemon.pid}, Node ${daemon.node}\n`,
  ].join('\n');
}

/** A block for each device: a line for each kind of request, then what is under way. */
export function formatStats(devices: readonly NamedStats[]): string {
  if (devices.length === 0) return noDevices;
  return devices.map(statsBlock).join('\n');
}

function statsBlock(stats: NamedStats): string {
  const { latency } = stats;
  const rows: string[][] = [
    ['', 'requests', 'bytes', 'mean', 'p50', 'p99', 'max'],
    ['read', `${stats.reads}`, formatBytes(stats.readBytes), ...latencyCells(latency.read)],
    ['write', `${stats.writes}`, formatBytes(stats.writeBytes), ...latencyCells(latency.write)],
    ['flush', `${stats.flushes}`, '', ...latencyCells(latency.flush)],
    ['trim', `${stats.trims}`, formatBytes(stats.trimBytes), '', '', '', ''],
    ['zero', `${stats.zeroes}`, formatBytes(stats.zeroBytes), '', '', '', ''],
  ];
  const indented = formatColumns(rows).replace(/^/gm, '  ').trimEnd();
  return `${stats.name}: ${stats.inFlight} in flight, ${stats.errors} errors\n${indented}\n`;
}

function latencyCells(latency: LatencyStats): string[] {
  if (latency.count === 0) return ['-', '-', '-', '-'];
  return [
    latency.meanMicroseconds,
    latency.p50Microseconds,
    latency.p99Microseconds,
    latency.maxMicroseconds,
  ].map(formatMicroseconds);
}

/** `2026-11-21T12:00:00.000Z device vol0 suspend` */
export function formatEvent(event: EventParams): string {
  const { time } = event;
  switch (event.event) {
    case 'device':
      return `${time} device ${event.name} ${event.what}\n`;
    case 'target': {
      const percent = event.percent === undefined ? '' : ` ${event.percent}%`;
      return `${time} target ${event.name} ${event.what}${percent}\n`;
    }
    case 'connection':
      return `${time} connection ${event.device ?? '-'} ${event.what} ${event.peer}\n`;
    case 'log':
      return `${time} log ${event.level} ${event.text} ${JSON.stringify(event.fields)}\n`;
  }
}
