import assert from "node:assert/strict";
import { Batch } from "../../engine/batch.ts";
import { distinct2, estimate, stepMetrics } from "../../engine/stats.ts";
import { ppo } from "./dsl_fixtures.ts";

const close = (actual: number | undefined, expected: number) =>
  assert.ok(Math.abs(actual! - expected) < 1e-6, `${actual} is not ${expected}`);

Deno.test("estimate() is the mean with the standard error of independent draws", () => {
  const { mean, error } = estimate([1, 2, 3, 6]);
  assert.equal(mean, 3);
  // Squares 4 + 1 + 0 + 9 over 3 · 4.
  close(error, Math.sqrt(14 / 12));
  assert.deepEqual(estimate([5]), { mean: 5, error: 0 });
});

Deno.test("estimate() takes the samples of one prompt for one draw", () => {
  const grouped = estimate([1, 1, 1, 4, 4, 4], 3);
  assert.deepEqual(grouped, estimate([1, 4]));
  assert.ok(grouped.error > estimate([1, 1, 1, 4, 4, 4]).error);
  // What differs only within prompts says nothing about their spread.
  assert.deepEqual(estimate([0, 2, 2, 0], 2), { mean: 1, error: 0 });
});

/** Two prompts with two samples each, of two tokens. */
function step(): Batch {
  const batch = new Batch(4, 2, [{ index: 0, fields: {} }, { index: 1, fields: {} }]);
  batch.tokens.set("tokens", {
    ids: [0, 1, 2, 3].map(() => Int32Array.of(9, 1, 2)),
    actions: [0, 1, 2, 3].map(() => Int32Array.of(1, 2)),
    temperature: 1,
    versions: [0, 0, 0, 0],
    model: "actor",
  });
  const token = (values: readonly number[]) => ({
    per: "token" as const,
    of: "tokens",
    values: [0, 1, 2, 3].map(() => Float32Array.from(values)),
  });
  batch.numbers.set("rewards", { per: "sequence", values: Float32Array.of(0, 2, 3, 5) });
  batch.numbers.set("finished", { per: "sequence", values: Float32Array.of(1, 1, 1, 0) });
  batch.numbers.set("logprobs", token([-1, -2]));
  batch.numbers.set("refLogprobs", token([-1, -3]));
  batch.numbers.set("values", token([0, 1]));
  batch.numbers.set("returns", token([0, 2]));
  return batch;
}

Deno.test("stepMetrics() says what the step's fields hold", () => {
  const metrics = stepMetrics(ppo().graph, step());
  close(metrics.reward, 2.5);
  close(metrics.rewardError, 1.5);
  close(metrics.length, 2);
  close(metrics.truncated, 0.25);
  close(metrics.entropy, 1.5);
  close(metrics.klK1, 0.5);
  close(metrics.klK3, (Math.exp(-1) - 1 + 1) / 2);
  close(metrics.explainedVariance, 0.75);
  assert.ok(!("reward/rewards" in metrics));
});

Deno.test("distinct2() counts bigrams within a text only", () => {
  assert.equal(distinct2(["a b a b", "a b"]), 2 / 4);
  assert.equal(distinct2(["one"]), 0);
});
