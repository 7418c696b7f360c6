#!/usr/bin/env node
/** The daemon's command: reads its options and runs it. */

import { messageOf } from './base/errors.js';
import { packageVersion } from './base/version.js';
import { takeInheritedSockets } from './daemon/activation.js';
import { usageText } from './daemon/usage.js';
import { type CommandLine, parseCommandLine } from './options.js';

function commandLine(): CommandLine {
  try {
    const inherited = takeInheritedSockets(process.env, process.pid);
    return parseCommandLine(process.argv.slice(2), inherited);
  } catch (error) {
    process.stderr.write(`mapperd: ${messageOf(error)}\n`);
    process.exit(1);
  }
}

const options = commandLine();
if (options === 'help') {
  process.stdout.write(usageText());
} else if (options === 'version') {
  process.stdout.write(`mapperd ${packageVersion()}\n`);
} else if (options === 'dump-config') {
  const { dumpConfig } = await import('./daemon/dump-config.js');
  process.stdout.write(await dumpConfig());
} else {
  // Loaded only now: help and version need nothing of it.
  const { runDaemon } = await import('./daemon/run.js');
  await runDaemon(options);
}
