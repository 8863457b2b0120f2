/** What a generate call writes: token field, text, log-probabilities, length, finished; only the ports that are bound. */
import type { GenerateCall } from "../ir/graph.ts";
import { keptWidth } from "../ir/groups.ts";
import { joinInts } from "./arrays.ts";
import type { Batch } from "./batch.ts";
import type { Response } from "./request.ts";

/**
 * @param prompts prompt of each group; `responses` point into it
 * @param version of the weights that sampled
 */
export function putResponses(
  batch: Batch,
  call: GenerateCall,
  prompts: readonly Int32Array[],
  responses: readonly Response[],
  version: number,
  decode: (ids: Int32Array, after: Int32Array) => string,
): void {
  const { tokens, response, logprobs, length, finished } = call.writes;
  const width = keptWidth({ calls: [call] }, tokens);
  const perSequence = (field: string | undefined, value: (r: Response) => number) => {
    if (field) batch.numbers.set(field, { per: "sequence", values: Float32Array.from(responses, value) });
  };
  if (tokens) {
    batch.tokens.set(tokens, {
      ids: responses.map((r) => joinInts([prompts[r.prompt]!, r.tokens])),
      actions: responses.map((r) =>
        (r.actions ?? r.tokens.map((_, i) => i)).map((at) => prompts[r.prompt]!.length + at)
      ),
      // Greedy log-probabilities are those of temperature 1 (DESIGN §3.1).
      temperature: call.sampling.temperature || 1,
      versions: responses.map(() => version),
      ...(width && { kept: { width, ids: responses.map((r) => r.kept!) } }),
      model: call.model,
      maxLag: call.sampling.maxLag,
    });
  }
  if (response) batch.texts.set(response, responses.map((r) => decode(r.tokens, prompts[r.prompt]!)));
  if (logprobs) {
    batch.numbers.set(logprobs, {
      per: "token",
      of: tokens ?? "tokens",
      values: responses.map((r) => r.logprobs),
    });
  }
  perSequence(length, (r) => r.logprobs.length);
  perSequence(finished, (r) => Number(r.finished));
}
