/**
 * JSON-RPC 2.0 without a transport: a message's text in, the reply's text out, or null where there
 * is nothing to say (notifications). Parameters are objects, by name. The requests of a batch are
 * carried out one after the other, in their order; methods that go with binary frames are not
 * taken in one.
 *
 *   -32700  the text is no JSON            -32602  the parameters do not fit the method
 *   -32600  the JSON is no request         -32603  a fault of the daemon's own
 *   -32601  no such method                 -32000  the method failed: data has { code, errno }
 */

import * as v from 'valibot';
import { E2BIG } from '../base/errno.js';
import { MapperError, messageOf } from '../base/errors.js';
import { controlBatchRequests, controlReplyBytes } from '../base/limits.js';
import type { Log } from '../base/log.js';

export const PARSE_ERROR = -32700;
export const INVALID_REQUEST = -32600;
export const METHOD_NOT_FOUND = -32601;
export const INVALID_PARAMS = -32602;
export const INTERNAL_ERROR = -32603;
export const APPLICATION_ERROR = -32000;

export interface RpcMethod<Context> {
  readonly schema: v.GenericSchema;
  /** It cannot be in a batch. */
  readonly alone?: boolean;
  /** `params` has passed the schema. Throws MapperError. */
  handle(params: never, context: Context): Promise<unknown> | unknown;
}

export interface RpcError {
  code: number;
  message: string;
  data?: { code: string; errno: number };
}

type Id = string | number | null;

const requestSchema = v.strictObject({
  jsonrpc: v.literal('2.0'),
  id: v.optional(v.union([v.string(), v.number(), v.null()])),
  method: v.string(),
  params: v.optional(v.unknown()),
});

export class Rpc<Context> {
  readonly #methods: ReadonlyMap<string, RpcMethod<Context>>;
  readonly #log: Log;

  constructor(methods: ReadonlyMap<string, RpcMethod<Context>>, log: Log) {
    this.#methods = methods;
    this.#log = log;
  }

  /** Carries out what the text asks for; never throws. */
  async answer(text: string, context: Context): Promise<string | null> {
    let message: unknown;
    try {
      message = JSON.parse(text);
    } catch (error) {
      return failure(null, { code: PARSE_ERROR, message: `parse error: ${messageOf(error)}` });
    }
    if (!Array.isArray(message)) return this.#single(message, context, false);
    if (message.length === 0 || message.length > controlBatchRequests) {
      const text = `batch of ${message.length} requests, wanted 1 to ${controlBatchRequests}`;
      return failure(null, { code: INVALID_REQUEST, message: text });
    }
    const replies: string[] = [];
    let bytes = 0;
    for (const request of message) {
      const room = controlReplyBytes - bytes;
      const reply = await this.#single(request, context, true, room);
      if (reply === null) continue;
      replies.push(reply);
      bytes += reply.length;
    }
    return replies.length === 0 ? null : `[${replies.join(',')}]`;
  }

  async #single(
    message: unknown,
    context: Context,
    inBatch: boolean,
    room = controlReplyBytes,
  ): Promise<string | null> {
    const parsed = v.safeParse(requestSchema, message, { abortEarly: true });
    if (!parsed.success) {
      const text = `invalid request: ${issueText(parsed.issues[0])}`;
      return failure(idOf(message), { code: INVALID_REQUEST, message: text });
    }
    const { id, method, params } = parsed.output;
    if (inBatch && this.#methods.get(method)?.alone === true) {
      if (id === undefined) return null;
      return failure(id, { code: INVALID_REQUEST, message: `${method}: not in a batch` });
    }
    const outcome = await this.#carryOut(method, params ?? {}, context);
    if (id === undefined) return null;
    if ('error' in outcome) return failure(id, outcome.error);
    const reply = JSON.stringify({ jsonrpc: '2.0', id, result: outcome.result ?? null });
    if (reply.length <= room) return reply;
    const text = `reply has ${reply.length} characters, at most ${room}: ask for less at a time`;
    return failure(id, applicationError(new MapperError(E2BIG, text)));
  }

  async #carryOut(
    name: string,
    params: unknown,
    context: Context,
  ): Promise<{ result: unknown } | { error: RpcError }> {
    const method = this.#methods.get(name);
    if (method === undefined) {
      return { error: { code: METHOD_NOT_FOUND, message: `no method ${JSON.stringify(name)}` } };
    }
    // To valibot an array is an object.
    if (Array.isArray(params)) {
      const message = `${name}: wanted parameters by name, in an object, found an array`;
      return { error: { code: INVALID_PARAMS, message } };
    }
    const parsed = v.safeParse(method.schema, params, { abortEarly: true });
    if (!parsed.success) {
      const message = `${name}: ${issueText(parsed.issues[0])}`;
      return { error: { code: INVALID_PARAMS, message } };
    }
    try {
      return { result: await method.handle(parsed.output as never, context) };
    } catch (error) {
      if (error instanceof MapperError) return { error: applicationError(error) };
      this.#log.error({ method: name, err: error }, 'control request failed unexpectedly');
      return { error: { code: INTERNAL_ERROR, message: `internal error: ${messageOf(error)}` } };
    }
  }
}

function applicationError(error: MapperError): RpcError {
  const { code, errno, message } = error;
  return { code: APPLICATION_ERROR, message, data: { code, errno } };
}

function failure(id: Id, error: RpcError): string {
  return JSON.stringify({ jsonrpc: '2.0', id, error });
}

/** The id of something that is no valid request, if it has one that can be given back. */
function idOf(message: unknown): Id {
  if (typeof message !== 'object' || message === null || !('id' in message)) return null;
  const { id } = message;
  return typeof id === 'string' || typeof id === 'number' ? id : null;
}

/** `words.0: wanted string, found 5`. */
function issueText(issue: v.BaseIssue<unknown>): string {
  const path = v.getDotPath(issue);
  const where = path === null ? '' : `${path}: `;
  if (issue.kind === 'validation') return where + issue.message;
  if (issue.expected === 'never') return `${where}unknown key`;
  if (issue.received === 'undefined') return `${where}missing, wanted ${issue.expected}`;
  return `${where}wanted ${issue.expected}, found ${issue.received}`;
}
