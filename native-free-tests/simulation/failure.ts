/** Something that must not be. The kind tells failures apart that have the same cause. */
export class SimFailure extends Error {
  readonly kind: string;

  constructor(kind: string, text: string) {
    super(`${kind}: ${text}`);
    this.kind = kind;
  }
}

/** The kind of anything thrown. */
export function kindOf(error: unknown): string {
  if (error instanceof SimFailure) return error.kind;
  return error instanceof Error ? error.message.replace(/[0-9]+/g, 'N').slice(0, 60) : 'unknown';
}
