import { errnoName } from './errno.js';

/**
 * An error that a person or a peer caused and can mend. Users match `code` (an errno name), never
 * the text. The text is lower case, without a full stop: the action, what was found, what was
 * wanted; texts that the kernel's device mapper has are the kernel's.
 */
export class MapperError extends Error {
  override readonly name = 'MapperError';
  readonly errno: number;
  readonly code: string;

  constructor(errno: number, message: string) {
    super(message);
    this.errno = errno;
    this.code = errnoName(errno);
  }

  /** The same error, told from further out: `create vol0: line 1: linear: ...`. */
  prefixed(prefix: string): MapperError {
    return new MapperError(this.errno, `${prefix}: ${this.message}`);
  }
}

/** The text of anything thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
