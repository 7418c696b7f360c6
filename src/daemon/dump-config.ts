/**
 * What this program can do, for other programs (--dump-config): lines of key=value, as nbdkit's.
 * Keys may be added; those that are here keep their meaning.
 */

import { messageOf } from '../base/errors.js';
import * as limits from '../base/limits.js';
import { packageVersion } from '../base/version.js';
import { Arena } from '../engine/arena.js';
import { chooseEngine } from '../engine/choose.js';
import { usualFolders } from '../gate/certificates.js';
import { targetTypes } from '../target/registry.js';

/** What an engine needs to find out whether it works here. */
const probeBytes = 16 * 2 ** 20;

export async function dumpConfig(): Promise<string> {
  const version = packageVersion();
  const [major = '', minor = ''] = version.split('.');
  const uring = await whyNoUring();
  const rows: [string, string | number][] = [
    ['name', 'mapperd'],
    ['version', version],
    ['version_major', major],
    ['version_minor', minor],
    ['binary', process.argv[1] ?? ''],
    ['node', process.versions.node],
    ['host_os', process.platform],
    ['host_cpu', process.arch],
    ['engine', uring === null ? 'uring' : 'node'],
    ['engine_node', 'yes'],
    ['engine_uring', uring === null ? 'yes' : 'no'],
    ['engine_uring_reason', uring ?? ''],
    ['targets', targetTypes.map(({ name }) => name).join(' ')],
    ['structured_replies', 'yes'],
    ['extended_headers', 'yes'],
    ['block_status_payload', 'yes'],
    ['meta_contexts', 'base:allocation qemu:allocation-depth qemu:dirty-bitmap'],
    ['tls', 'yes'],
    ['tls_certificates_dirs', usualFolders().join(' ')],
    ['single', 'yes'],
    ['captive', 'yes'],
    ['socket_activation', 'yes'],
    ['exit_with_parent', 'yes'],
    ['sd_notify', 'yes'],
    ['max_connections', limits.connections],
    ['max_requests_per_connection', limits.requestsPerConnection],
    ['max_payload_bytes', limits.payloadBytes],
    ['max_devices', limits.devices],
    ['max_device_bytes', limits.deviceBytes],
    ['max_export_name_bytes', limits.deviceNameBytes],
    ['max_table_bytes', limits.tableBytes],
    ['max_targets_per_table', limits.targetsPerTable],
    ['max_stack_depth', limits.stackDepth],
  ];
  return rows.map(([key, value]) => `${key}=${value}\n`).join('');
}

/** Null: it works. */
async function whyNoUring(): Promise<string | null> {
  try {
    const { engine } = await chooseEngine('uring', new Arena(probeBytes));
    engine.stop();
    await engine.run();
    return null;
  } catch (error) {
    return messageOf(error)
      .replace(/^engine uring: /, '')
      .replaceAll('\n', ' ');
  }
}
