import assert from "node:assert/strict";
import { planSingle } from "../../planner/single.ts";
import { scheduleOf } from "../../planner/schedule.ts";
import { planViolations } from "../../ir/check_plan.ts";
import { digest } from "../../ir/digest.ts";
import type { CallGraph } from "../../ir/graph.ts";
import {
  adamw,
  bradleyTerry,
  models,
  policyLoss,
  policyModel,
  preferences,
  prompts,
  rewardModel,
  workflow,
} from "../../mod.ts";

const { actor, judge } = models({
  actor: policyModel("actor", adamw({ lr: 1e-3 })),
  judge: rewardModel("judge", adamw({ lr: 1e-3 })),
});
const tokenwise = policyLoss({}, (now) => now.logprobs.mean().neg());
const groupwise = policyLoss({}, (now) => now.logprobs.meanPerSequence().groupMean().mean().neg());

const sampled = (loss: typeof tokenwise) =>
  workflow({
    name: "grouped",
    data: prompts("p.jsonl", { batch: 4 }),
    flow: actor.generate({ maxNewTokens: 8, samples: 4 }).then(actor.train(loss)),
  }).graph;

function plan(graph: CallGraph, microBatchTokens?: number, reread = {}) {
  return planSingle({
    graph,
    digest: digest(graph),
    cluster: { nodes: 1, devicesPerNode: 1, memoryBytes: 2 ** 30, links: [] },
    longest: 2000,
    group: graph.source.kind === "pairs" ? 2 : 4,
    stepTokens: 32_000,
    reread,
    ...(microBatchTokens !== undefined && { microBatchTokens }),
  });
}
const tokens = (graph: CallGraph, wish?: number, reread = {}) =>
  Object.fromEntries(
    Object.entries(plan(graph, wish, reread).assignments).map(([id, a]) => [id, a.microBatchTokens]),
  );

Deno.test("planSingle() keeps a group in one micro-batch only for a loss that compares its samples", () => {
  assert.deepEqual(tokens(sampled(tokenwise)), { "actor.generate": 4096, "actor.train": 4096 });
  assert.deepEqual(tokens(sampled(groupwise)), { "actor.generate": 4096, "actor.train": 8000 });
  const pairs = workflow({
    name: "pairs",
    data: preferences("p.jsonl", { batch: 4 }),
    flow: judge.train(bradleyTerry()),
  }).graph;
  assert.deepEqual(tokens(pairs, 4000), { "judge.train": 4000 });
});

Deno.test("planSingle() takes a wish as it is, and refuses one that is too small with both numbers", () => {
  assert.deepEqual(tokens(sampled(tokenwise), 2000), { "actor.generate": 2000, "actor.train": 2000 });
  assert.throws(() => plan(sampled(groupwise), 7999), {
    name: "RangeError",
    message:
      "Cannot plan grouped: microBatchTokens is 7999 and actor.train needs 8000 for 4 sequences that belong " +
      "together, raise it or leave it out",
  });
  assert.throws(
    () => plan(sampled(tokenwise), 1000),
    /actor\.generate needs 2000 for the longest sequence, actor\.train/,
  );
  // What another vocabulary makes of a text is an estimate: no wish is refused for it.
  const both = workflow({
    name: "judged",
    data: prompts("p.jsonl", { batch: 4 }),
    flow: actor.generate({ maxNewTokens: 8, samples: 4 }).then(judge.infer()),
  }).graph;
  assert.deepEqual(tokens(both, 2000, { judge: 8256 }), { "actor.generate": 2000, "judge.infer": 8256 });
});

Deno.test("planSingle() makes plans that hold to the specification of a plan", () => {
  for (const graph of [sampled(tokenwise), sampled(groupwise)]) {
    assert.deepEqual(planViolations(plan(graph), graph), []);
  }
});

Deno.test("scheduleOf() loads every model once and refuses to have one in two places", () => {
  const graph = sampled(tokenwise), one = plan(graph);
  assert.deepEqual(scheduleOf(graph, one), {
    version: 1,
    prologue: [{ op: "load", replica: "actor@0", model: "actor" }],
    step: ["actor.generate", "actor.train"].map((call) => ({ op: "run", call, replica: "actor@0" })),
  });
  const train = one.assignments["actor.train"]!;
  const moved = {
    ...one,
    assignments: { ...one.assignments, "actor.train": { ...train, mesh: { ...train.mesh, device: 1 } } },
  };
  assert.throws(
    () => scheduleOf(graph, moved),
    /actor\.generate and actor\.train have "actor" in two places/,
  );
});
