/** An export as the stamper sees it: many requests at once over one connection. */

import type { Buffer } from 'node:buffer';
import { CMD, RawClient, type Reply, type Request } from '../interop/raw-client.js';
import type { StampedDisk } from './stamper.js';

export class NbdDisk implements StampedDisk {
  readonly #client: RawClient;
  readonly #waiting = new Map<bigint, (reply: Reply) => void>();
  #cookie = 0n;
  #receiving: Promise<void> | null = null;

  private constructor(client: RawClient) {
    this.#client = client;
  }

  static async connect(socket: string, name: string): Promise<NbdDisk> {
    return new NbdDisk(await RawClient.ready(socket, name, { structured: true }));
  }

  async read(offset: number, length: number): Promise<Buffer> {
    return (await this.#request({ type: CMD.read, offset, length })).data;
  }

  async write(offset: number, payload: Buffer): Promise<void> {
    await this.#request({ type: CMD.write, offset, payload });
  }

  async flush(): Promise<void> {
    await this.#request({ type: CMD.flush });
  }

  async trim(offset: number, length: number): Promise<void> {
    await this.#request({ type: CMD.trim, offset, length });
  }

  async #request(request: Request): Promise<Reply> {
    const cookie = ++this.#cookie;
    const answered = new Promise<Reply>((resolve) => this.#waiting.set(cookie, resolve));
    void this.#client.sendRequest({ ...request, cookie });
    this.#receiving ??= this.#receive();
    const reply = await Promise.race([answered, this.#receiving.then(() => answered)]);
    if (reply.error !== 0) throw new Error(`request ${request.type}: error ${reply.error}`);
    return reply;
  }

  /** Takes replies for as long as some are missing. */
  async #receive(): Promise<void> {
    while (this.#waiting.size > 0) {
      const reply = await this.#client.reply();
      const resolve = this.#waiting.get(reply.cookie);
      if (resolve === undefined)
        throw new Error(`a reply to ${reply.cookie}, which waits for none`);
      this.#waiting.delete(reply.cookie);
      resolve(reply);
    }
    this.#receiving = null;
  }

  close(): void {
    this.#client.destroy();
  }
}
