#!/usr/bin/env node
/** The daemon's command: reads its options and runs it. */

import { messageOf } from './base/errors.js';
import { packageVersion } from './base/version.js';
import { type CommandLine, parseCommandLine, usage } from './options.js';

function commandLine(): CommandLine {
  try {
    return parseCommandLine(process.argv.slice(2));
  } catch (error) {
    process.stderr.write(`mapperd: ${messageOf(error)}\n`);
    process.exit(1);
  }
}

const options = commandLine();
if (options === 'help') {
  process.stdout.write(usage);
} else if (options === 'version') {
  process.stdout.write(`mapperd ${packageVersion()}\n`);
} else {
  // Loaded only now: help and version need nothing of it.
  const { runDaemon } = await import('./daemon.js');
  await runDaemon(options);
}
