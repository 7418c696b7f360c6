/** Table lines that the kernel refuses, or that one might think it does. */

/** Words of a header: magic, valid, version, chunk size. */
function header(magic: number, valid: number, version: number, chunkSectors: number): string {
  const bytes = Buffer.alloc(16);
  for (const [at, value] of [magic, valid, version, chunkSectors].entries()) {
    bytes.writeUInt32LE(value, 4 * at);
  }
  return bytes.toString('hex');
}

const SNAP = 0x70416e53;

/** What stands behind `0 100`. */
const words: string[] = [
  'snapshot',
  'snapshot @o',
  'snapshot @o @c',
  'snapshot @o @c P',
  'snapshot @o @c X 8',
  'snapshot @o @c PX 8',
  'snapshot @o @c OP 8',
  'snapshot @o @c P abc',
  'snapshot @o @c P 8x',
  'snapshot @o @c P -8',
  'snapshot @o @c P 9',
  'snapshot @o @c P 65',
  'snapshot @o @c P 4194304',
  'snapshot @o @c P 99999999999',
  'snapshot @o @c N 9',
  'snapshot @o @c N 0',
  'snapshot @o @c N',
  'snapshot /nonexistent/device @c P 8',
  'snapshot @o /nonexistent/device P 8',
  'snapshot @o @o P 8',
  'snapshot @o @c P 8 1 nonsense',
  'snapshot @o @c P 8 1 discard_passdown_origin',
  'snapshot @o @c P 8 2 discard_zeroes_cow',
  'snapshot @o @c P 8 2 discard_zeroes_cow nonsense',
  'snapshot @o @c P 8 3 discard_zeroes_cow discard_passdown_origin nonsense',
  'snapshot @o @c P 8 many',
  'snapshot-merge',
  'snapshot-merge @o @c P',
  'snapshot-merge @o @o P 8',
  'snapshot-merge @o @c P 9',
  'snapshot-merge /nonexistent/device @c P 8',
  'snapshot-origin',
  'snapshot-origin @o @c',
];

/** And such as it takes: what `table` prints of them. */
const taken: string[] = [
  'snapshot @o @c p 8',
  'snapshot @o @c po 8',
  'snapshot @o @c Poverflow 8',
  'snapshot @o @c PO 8 0',
  'snapshot @o @c n 8',
  'snapshot @o @c Nonsense 8',
  'snapshot @o @c P 8 1 DISCARD_ZEROES_COW',
  'snapshot @o @c P 8 2 discard_passdown_origin discard_zeroes_cow',
  'snapshot @o @c P 08',
  'snapshot @o @c P 64',
];

/** First sectors of a COW. */
const headers: string[] = [
  header(SNAP, 1, 1, 8),
  header(SNAP, 0, 1, 8),
  header(SNAP, 7, 1, 8),
  header(SNAP, 1, 0, 8),
  header(SNAP, 1, 2, 8),
  header(SNAP, 1, 1, 0),
  header(SNAP, 1, 1, 9),
  header(SNAP, 1, 1, 16),
  header(SNAP, 1, 1, 0x80000000),
  header(SNAP + 1, 1, 1, 8),
  header(0x536e4170, 1, 1, 8),
  header(1, 0, 0, 0),
  header(0, 1, 2, 9),
];

const begin = ['disk o 100', 'disk c 200', 'disk d 200', 'disk e 1'];

/** Devices that are not there or not long enough. */
const unfit: readonly string[] = [
  'create nowhere 0 100 snapshot-origin /nonexistent/device',
  'create longer 0 101 snapshot @o @c P 8',
  'create small 0 100 snapshot @o @e P 1',
];

export const lines: readonly string[] = [
  ...begin,
  ...words.flatMap((line, at) => [`create w${at} 0 100 ${line}`]),
  ...unfit,
  'create longer-origin 0 101 snapshot-origin @o',
  ...taken.flatMap((line, at) => [
    'poke c 00',
    `create t${at} 0 100 ${line}`,
    `table t${at}`,
    `remove t${at}`,
  ]),
  ...headers.flatMap((hex, at) => [
    `poke c ${hex}`,
    `create h${at} 0 100 snapshot @o @c P 8`,
    `table h${at}`,
    `status h${at}`,
    `remove h${at}`,
  ]),
  // One merge for an origin, two tables for a COW.
  'poke c 00',
  'create other 0 100 snapshot @o @c N 8',
  // Without a live snapshot the kernel takes this table, and ends in a panic.
  'create merge 0 100 snapshot-merge @o @c N 8',
  'remove other',
  'create other 0 100 snapshot @o @d P 8',
  'create merge 0 100 snapshot-merge @o @c P 8',
  'create second 0 100 snapshot-merge @o @d P 8',
  'remove merge',
  'remove other',
  'create one 0 100 snapshot @o @c P 8',
  'load one 0 100 snapshot @o @c P 8',
  'create three 0 100 snapshot @o @c P 8',
  'remove one',
];
