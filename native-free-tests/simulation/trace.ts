/** What has happened, as one number: runs of one seed have the same. */

export class TraceHash {
  #hash = 0x811c9dc5;

  add(value: number): void {
    this.#hash = Math.imul(this.#hash ^ value, 0x01000193);
  }

  get value(): string {
    return (this.#hash >>> 0).toString(16).padStart(8, '0');
  }
}
