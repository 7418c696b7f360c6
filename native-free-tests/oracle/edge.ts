/**
 * What the scripts at the edges are made of. In each, `%` stands before the names that are the
 * script's own: %o an origin, %c its snapshot's COW, %t the origin's device, %s the snapshot's.
 */

export interface Edge {
  readonly title: string;
  /** It needs files that can be trimmed, which not every engine can do. */
  readonly trims?: boolean;
  readonly script: readonly string[];
}

export type StoreType = 'P' | 'PO' | 'N';

export const types = ['P', 'PO'] as const;

/** An origin of 100 sectors with one snapshot. */
export function start(type: StoreType, chunkSectors: number, cowSectors: number): string[] {
  return [
    'disk %o 100',
    `disk %c ${cowSectors}`,
    'pour %o 0 100 1',
    'create %t 0 100 snapshot-origin @%o',
    'suspend %t',
    `create %s 0 100 snapshot @%o @%c ${type} ${chunkSectors}`,
    'resume %t',
    'status %s',
  ];
}

export const look = ['status %s', 'read %s', 'read %o', 'read %c'];

/** The snapshot's device taken down and made again: what of its state is on disk. */
export function again(type: StoreType, chunkSectors: number): string[] {
  return [
    'suspend %t',
    'remove %s',
    `create %s 0 100 snapshot @%o @%c ${type} ${chunkSectors}`,
    'resume %t',
    'table %s',
    ...look,
  ];
}
