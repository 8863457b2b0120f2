/** Sequences longer than what fits into an argument list. */
import assert from "node:assert/strict";
import { Batch } from "../../engine/batch.ts";
import { converse } from "../../engine/conversation.ts";
import type { GenerateRequest, Response } from "../../engine/request.ts";
import { putResponses } from "../../engine/responses.ts";
import type { GenerateCall } from "../../ir/graph.ts";

const LONG = 80_000;
const tokens = (n: number) => Int32Array.from({ length: n }, (_, i) => i);
const call = {
  kind: "generate",
  id: "actor.generate",
  model: "actor",
  reads: { prompt: "prompt" },
  writes: { tokens: "tokens", logprobs: "logprobs" },
  sampling: { temperature: 1, topK: 0, samples: 1, maxLag: 0 },
} as unknown as GenerateCall;

Deno.test("a response of any length goes into the batch", () => {
  const batch = new Batch(1, 1, [{ index: 0, fields: {} }]), prompt = tokens(LONG), made = tokens(2 * LONG);
  const response: Response = {
    prompt: 0,
    tokens: made,
    logprobs: new Float32Array(2 * LONG),
    finished: true,
  };
  putResponses(batch, call, [prompt], [response], 0, () => "");
  const { ids, actions } = batch.tokensOf("tokens");
  assert.equal(ids[0]!.length, 3 * LONG);
  assert.equal(ids[0]!.at(-1), 2 * LONG - 1);
  assert.deepEqual([actions[0]!.length, actions[0]![0], actions[0]!.at(-1)], [2 * LONG, LONG, 3 * LONG - 1]);
});

Deno.test("turns of any length are one response", async () => {
  const prompts: Int32Array[] = [];
  const generate = (request: GenerateRequest): Promise<Response[]> => {
    prompts.push(request.prompts[0]!);
    const logprobs = new Float32Array(LONG).fill(-prompts.length);
    return Promise.resolve([{ prompt: 0, tokens: tokens(LONG), logprobs, finished: true }]);
  };
  const request: GenerateRequest = {
    prompts: [tokens(LONG)],
    indices: [0],
    samples: 1,
    maxNewTokens: 10 * LONG,
    stops: [],
    key: [0, 0],
    maxPositions: 20 * LONG,
  };
  const [response] = await converse(generate, request, {
    call: call.id,
    tools: [{ name: "echo", call: /more/, run: () => "on" }],
    maxTurns: 3,
    seconds: 10,
    decode: () => "more",
    encode: () => tokens(LONG),
    keyOf: (turn) => [turn, 0],
  });
  assert.deepEqual(prompts.map((p) => p.length), [LONG, 3 * LONG, 5 * LONG]);
  assert.equal(response!.tokens.length, 5 * LONG);
  assert.equal(response!.actions!.length, 3 * LONG);
  assert.equal(response!.actions!.at(-1), 5 * LONG - 1);
  assert.deepEqual([0, LONG, 2 * LONG].map((i) => response!.logprobs[i]), [-1, -2, -3]);
});
