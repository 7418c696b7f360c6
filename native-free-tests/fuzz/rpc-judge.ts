/** What a reply to a control client must be, from the text that was asked. */

import { expect } from './subject.js';

const codes = new Set([-32700, -32600, -32601, -32602, -32000]);

/** What a request or a reply may have. */
interface Fields {
  readonly jsonrpc?: unknown;
  readonly id?: unknown;
  readonly method?: unknown;
  readonly code?: unknown;
  readonly message?: unknown;
  readonly data?: unknown;
  readonly error?: unknown;
}

function isObject(value: unknown): value is Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** Whether JSON is a request of the protocol, and if it is, whether it wants a reply. */
function wantsReply(message: unknown): boolean {
  if (!isObject(message)) return true;
  const known = ['jsonrpc', 'id', 'method', 'params'];
  const right =
    message.jsonrpc === '2.0' &&
    typeof message.method === 'string' &&
    Object.keys(message).every((key) => known.includes(key));
  return !right || 'id' in message;
}

function judgeOne(reply: unknown, asked: unknown): void {
  expect(isObject(reply) && reply.jsonrpc === '2.0', () => `a reply ${JSON.stringify(reply)}`);
  const { id } = reply;
  const given = isObject(asked) ? asked.id : null;
  // JSON has numbers that are infinite here, and no word for them in the reply.
  const isId = typeof given === 'string' || Number.isFinite(given);
  expect(id === (isId ? given : null), () => `id ${id}, asked was ${JSON.stringify(given)}`);
  expect('result' in reply !== 'error' in reply, 'a reply with result and error, or neither');
  if (!('error' in reply)) return;
  const { error } = reply;
  expect(isObject(error), 'an error that is no object');
  const { code, message, data } = error;
  expect(codes.has(code as number), () => `error ${code}: ${message}`);
  expect(typeof message === 'string' && message.length > 0, 'an error without a text');
  expect((code === -32000) === isObject(data), () => `data ${JSON.stringify(data)} with ${code}`);
}

/** `reply`: null when there was none. Throws Finding. */
export function judgeReply(text: string, reply: string | null): void {
  let asked: unknown;
  try {
    asked = JSON.parse(text);
  } catch {
    expect(reply !== null, 'no reply to what is no JSON');
    judgeOne(JSON.parse(reply), null);
    return;
  }
  const isBatch = Array.isArray(asked) && asked.length >= 1 && asked.length <= 64;
  const wanted = (isBatch ? (asked as unknown[]) : [asked]).filter(wantsReply);
  if (wanted.length === 0) {
    expect(reply === null, () => `a reply to a notification: ${reply}`);
    return;
  }
  expect(reply !== null, 'no reply');
  const found: unknown = JSON.parse(reply);
  if (!isBatch) {
    judgeOne(found, asked);
    return;
  }
  expect(Array.isArray(found) && found.length === wanted.length, 'a batch of other replies');
  for (const [at, one] of found.entries()) judgeOne(one, wanted[at]);
}
