/**
 * Received bytes of one connection, in one block of the arena:
 *
 *   |  taken  |  received, not taken yet  |  room  |
 *   0         at                          end      size
 *
 * The payload of a WRITE is not copied: it goes to the disk from where it was received. Until it is
 * there the window is held, and the connection receives into its rest, or into another window.
 */

export class ReceiveWindow {
  readonly memory: number;
  readonly size: number;
  /** It is counted in the pool that connections share. */
  readonly pooled: boolean;
  at = 0;
  end = 0;
  /** Writes that still need what is in here. */
  holders = 0;
  /** The connection receives into another window now. */
  retired = false;

  constructor(memory: number, size: number, pooled: boolean) {
    this.memory = memory;
    this.size = size;
    this.pooled = pooled;
  }
}
