/**
 * Several turns of one sample: between them the host asks a tool and goes on from the same tokens, none of them encoded
 * again. All sequences that go on are one rollout, so every turn is generated like a first one, under any plan.
 */
import { joinFloats, joinInts } from "./arrays.ts";
import type { GenerateRequest, Response } from "./request.ts";
import { unlessAborted, within } from "./score.ts";

/** A tool as the script wrote it. */
export interface HostTool {
  readonly name: string;
  readonly call: RegExp;
  readonly run: (match: readonly string[]) => string | Promise<string>;
}

export interface ConversationOptions {
  /** For messages. */
  readonly call: string;
  readonly tools: readonly HostTool[];
  readonly maxTurns: number;
  /** Until when a tool has to have answered. */
  readonly seconds: number;
  readonly decode: (ids: Int32Array, after: Int32Array) => string;
  /** Without tokens of its own in front. */
  readonly encode: (text: string) => Int32Array;
  /** The request of a later turn, numbered from 2: its randomness is its own. */
  readonly keyOf: (turn: number) => GenerateRequest["key"];
}

/** One sample on its way. */
interface Conversation {
  readonly prompt: number;
  readonly start: Int32Array;
  /** Number of its randomness: one for every sample of the step. */
  readonly index: number;
  tokens: Int32Array;
  actions: Int32Array;
  logprobs: Float32Array;
  kept: Int32Array | undefined;
  finished: boolean;
}

/** @param generate one turn: responses in the order of prompts, samples of one prompt as neighbours */
export async function converse(
  generate: (request: GenerateRequest) => Promise<readonly Response[]>,
  request: GenerateRequest,
  o: ConversationOptions,
): Promise<Response[]> {
  const { samples, maxNewTokens, maxPositions, prompts, indices } = request;
  const first = await generate(request);
  const all = first.map((r, i): Conversation => ({
    prompt: r.prompt,
    start: prompts[r.prompt]!,
    index: indices[r.prompt]! * samples + i % samples,
    tokens: r.tokens,
    actions: r.tokens.map((_, at) => at),
    logprobs: r.logprobs,
    kept: r.kept,
    finished: r.finished,
  }));
  const room = ({ start, tokens }: Conversation) =>
    Math.min(maxNewTokens, maxPositions - start.length) - tokens.length;
  let said = all.map((c) => c.tokens);
  let open = all;
  for (let turn = 2; turn <= o.maxTurns && open.length; turn++) {
    const asked = open.map((c, i) => answer(c, said[i]!, o));
    const answers = await unlessAborted(Promise.all(asked), request.signal);
    open = open.filter((c, i) => {
      const text = answers[i];
      if (text === null || text === undefined) return false;
      const ids = o.encode(text);
      // Without room for the answer and a token behind it, the sample ends here, cut.
      c.finished = false;
      if (ids.length + 1 > room(c)) return false;
      c.tokens = joinInts([c.tokens, ids]);
      return true;
    });
    if (!open.length) break;
    const responses = await generate({
      ...request,
      prompts: open.map((c) => joinInts([c.start, c.tokens])),
      indices: open.map((c) => c.index),
      limits: open.map(room),
      samples: 1,
      key: o.keyOf(turn),
    });
    open.forEach((c, i) => {
      const r = responses[i]!, at = c.tokens.length;
      c.tokens = joinInts([c.tokens, r.tokens]);
      c.actions = joinInts([c.actions, r.tokens.map((_, j) => at + j)]);
      c.logprobs = joinFloats([c.logprobs, r.logprobs]);
      if (r.kept) c.kept = joinInts([c.kept!, r.kept]);
      c.finished = r.finished;
    });
    said = responses.map((r) => r.tokens);
  }
  return all.map((c) => ({
    prompt: c.prompt,
    tokens: c.tokens,
    actions: c.actions,
    logprobs: c.logprobs,
    ...(c.kept && { kept: c.kept }),
    finished: c.finished,
  }));
}

/** What the tool says that the turn calls, or null where it calls none or was cut. */
async function answer(c: Conversation, turn: Int32Array, o: ConversationOptions): Promise<string | null> {
  if (!c.finished) return null;
  const before = c.tokens.subarray(0, c.tokens.length - turn.length);
  const text = o.decode(turn, joinInts([c.start, before]));
  for (const tool of o.tools) {
    const match = tool.call.exec(text);
    if (!match) continue;
    const cannot = `Cannot ask tool ${tool.name} in ${o.call}: it`;
    const late = () => new Error(`${cannot} took longer than ${o.seconds} s, raise score.deadlineSeconds`);
    return await within(o.seconds, late, async () => {
      try {
        return await tool.run([...match]);
      } catch (cause) {
        const message = cause instanceof Error ? cause.message : cause;
        throw new Error(`${cannot} threw "${message}", mend it`, { cause });
      }
    });
  }
  return null;
}
