import assert from "node:assert/strict";
import { adamw, models, policyLoss, policyModel, prompts, workflow } from "../../dsl/mod.ts";
import { remarks } from "../../run/remarks.ts";

const { actor, other } = models({
  actor: policyModel("m", adamw({ lr: 1e-3 })),
  other: policyModel("m"),
});
const imitate = policyLoss({}, (now) => now.logprobs.neg().mean());
const graphOf = (
  sampling: { topK?: number; topP?: number; keepSampledMask?: boolean },
  sampler: Pick<typeof actor, "generate"> = actor,
) =>
  workflow({
    name: "w",
    data: prompts("p.jsonl", { batch: 1 }),
    flow: sampler.generate(sampling).then(actor.train(imitate)),
  }).graph;

Deno.test("remarks() warns of training on truncated samples, once for each generation", () => {
  assert.deepEqual(remarks(graphOf({})), []);
  assert.deepEqual(remarks(graphOf({ topP: 0.9 }, other)), []);
  assert.match(
    remarks(graphOf({ topP: 0.9 })).join(),
    /^note: actor\.generate samples with topP 0\.9 and actor\.train/,
  );
  assert.match(
    remarks(graphOf({ topK: 5 })).join(),
    /^note: actor\.generate samples with topK 5 and [^,]*, say keepSampledMask, or leave topK/,
  );
  assert.deepEqual(remarks(graphOf({ topK: 5, keepSampledMask: true })), []);
});
