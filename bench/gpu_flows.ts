/** Workflows that several parts of the benches for GPUs run. */
import type { DataSizes } from "../compiler/programs.ts";
import {
  adamw,
  groupAdvantages,
  grpo,
  models,
  policyModel,
  prompts,
  score,
  text,
  type Workflow,
  workflow,
} from "../mod.ts";

/** GRPO with a reward that needs no model: the share of different letters. */
export function grpoFlow(
  { count, samples, response }: {
    readonly count: number;
    readonly samples: number;
    readonly response: number;
  },
): Workflow {
  const { actor, ref } = models({
    actor: policyModel("random", adamw({ lr: 1e-6 })),
    ref: policyModel("random"),
  });
  const letters = score(
    "rewards",
    { response: text },
    ({ response }) => new Set(response).size / response.length,
  );
  return workflow({
    name: "grpo",
    data: prompts("random.jsonl", { batch: count }),
    flow: actor.generate({ samples, maxNewTokens: response, ignoreEos: true })
      .then(letters, ref.infer().as("refLogprobs")).then(groupAdvantages())
      .then(actor.train(grpo({ epsilon: 0.2, beta: 0.04 }), { minibatches: 2 })),
  });
}

/** What its programs are made for: `count` prompts of `prompt` tokens. */
export const grpoSizes = (
  o: { readonly count: number; readonly samples: number; readonly prompt: number; readonly response: number },
): DataSizes => ({
  sequences: o.count * o.samples,
  group: o.samples,
  longestPrompt: o.prompt,
  longest: o.prompt + o.response,
  longestResponse: o.response,
});
