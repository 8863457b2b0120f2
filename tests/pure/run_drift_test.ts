/** Drift: what is compared with a plan, when it is said, and what planning again is told. */
import assert from "node:assert/strict";
import type { Batch } from "../../engine/batch.ts";
import { hostSecondsOf, parseHost } from "../../run/assumptions.ts";
import { DriftWatch, type Measured, measuredInput, scalesOf } from "../../run/drift.ts";
import { quantiles, stepLengths } from "../../run/lengths.ts";
import { predictionOf } from "../../run/prediction.ts";
import { planGraph } from "../../planner/plan_graph.ts";
import { predict } from "../../planner/predict.ts";
import { grpoGraph, inputOf, profile } from "./planner_fixtures.ts";

const graph = grpoGraph({ batch: 4, maxNew: 16 });

/** A step whose prompts and responses have so many tokens. */
function batch(prompt: number, response: number): Pick<Batch, "tokens"> {
  const ids = Array.from({ length: 16 }, () => new Int32Array(prompt + response));
  const actions = ids.map(() => Int32Array.from({ length: response }, (_, i) => prompt + i));
  return { tokens: new Map([["tokens", { ids, actions, temperature: 1, versions: ids.map(() => 0) }]]) };
}

const PLANNED = {
  seconds: 1,
  prompt: 10,
  response: 16,
  calls: { "actor.generate": 0.6, "actor.train": 0.35, rewards: 0, advantages: 0.001 },
};
const TIMES = {
  seconds: 1.1,
  "seconds/actor.generate": 0.65,
  "seconds/actor.train": 0.4,
  "seconds/rewards": 0.01,
};

/** Everything that a watch says over some steps. */
function said(steps: readonly (readonly [Pick<Batch, "tokens">, Record<string, number>])[]): string[][] {
  const watch = new DriftWatch(graph, PLANNED);
  return steps.map(([b, times]) => watch.add(b, times).map((d) => d.line));
}

Deno.test("steps that are as planned, within a quarter, are no drift", () => {
  assert.deepEqual(said([0, 0, 0, 0].map(() => [batch(12, 13), TIMES])), [[], [], [], []]);
});

Deno.test("every kind of drift is said once, with both numbers, and never of the first step", () => {
  const slow = { ...TIMES, seconds: 2, "seconds/actor.generate": 1.5 };
  const [first, second, third, fourth] = said([0, 0, 0, 0].map(() => [batch(20, 5), slow]));
  assert.deepEqual([first, second, fourth], [[], [], []]);
  assert.deepEqual(third, [
    "prompts have 20 tokens on average and were planned with 10",
    "responses have 5 tokens on average and were planned with 16",
    "a step takes 2 s and was planned to take 1 s (actor.generate 1.5 s, planned 0.6 s)",
  ]);
});

Deno.test("a call that is a tenth of a step counts, a smaller one does not", () => {
  const of = (change: Record<string, number>) =>
    said([0, 0, 0].map(() => [batch(10, 16), { ...TIMES, ...change }]))[2]!;
  assert.deepEqual(of({ "seconds/rewards": 0.05 }), []);
  assert.deepEqual(of({ "seconds/rewards": 0.2 }), [
    "a step takes 1.1 s and was planned to take 1 s (rewards 0.2 s, planned 0 s)",
  ]);
});

Deno.test("lengths are those of the rollout, and sixteen of them stand for all", () => {
  assert.deepEqual(stepLengths(graph, batch(3, 2)).prompts, new Array(16).fill(3));
  const many = Array.from({ length: 160 }, (_, i) => 160 - i), few = quantiles(many);
  assert.deepEqual([few.length, few[0], few[15]], [16, 6, 156]);
  assert.deepEqual(quantiles([7]), new Array(16).fill(7));
});

Deno.test("what was measured takes the place of what was assumed, and scales what the cost model says of calls", () => {
  const input = inputOf(graph, { profile: profile("cpu"), layers: 2 });
  const plan = planGraph({ ...input, sizes: input.workload.sizes, strategy: { dp: 2, tp: 1, pp: 1 } });
  const before = predictionOf(input, plan);
  const measured: Measured = {
    prompts: [5],
    responses: [4],
    calls: { "score.rewards": 0.5, "actor.train": 3 },
  };
  const now = measuredInput(before, measured);
  assert.deepEqual([now.workload.prompts, now.workload.responses], [[5], [4]]);
  const shorter = predict(now, plan);
  assert.ok(shorter.calls["actor.generate"]! < before.calls["actor.generate"]!);
  assert.equal(shorter.calls["score.rewards"], 0.5);
  const scales = scalesOf(now, shorter.calls, measured);
  assert.deepEqual(Object.keys(scales), ["actor.train"]);
  const scaled = predict({ ...now, scales }, plan);
  assert.ok(Math.abs(scaled.calls["actor.train"]! - 3) < 1e-9);
  assert.equal(scaled.calls["actor.generate"], shorter.calls["actor.generate"]);
  // Scales of an earlier plan do not pile up.
  assert.equal(measuredInput({ ...before, input: { ...now, scales } }, measured).scales, undefined);
});

Deno.test("seconds of score calls are read from NAME=SECONDS pairs", () => {
  assert.deepEqual(parseHost("rewards=0.05,judge=2"), { rewards: 0.05, judge: 2 });
  // By the call's id, or by the field that it writes.
  assert.deepEqual(hostSecondsOf(graph, { rewards: 2 }), { "score.rewards": 2 });
  assert.deepEqual(hostSecondsOf(graph, { "score.rewards": 2 }), { "score.rewards": 2 });
  assert.throws(
    () => hostSecondsOf(graph, { "actor.train": 2 }),
    /^TypeError: Cannot plan grpo: seconds are given for "actor\.train", .* name one of score\.rewards$/,
  );
  for (const text of ["rewards", "rewards=", "=1", "rewards=-1", "a=1=2", "a=x"]) {
    assert.match(parseHost(text) as string, /it must be the seconds of calls, as rewards=0\.05$/);
  }
});
