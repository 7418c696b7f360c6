import type { Log } from '../../src/base/log.js';

/** A log that remembers its texts. */
export class QuietLog implements Log {
  readonly texts: string[] = [];
  debug(): void {}
  info(): void {}
  warn(_fields: object, text: string): void {
    this.texts.push(text);
  }
  error(_fields: object, text: string): void {
    this.texts.push(text);
  }
}
