import assert from "node:assert/strict";
import {
  adamw,
  compute,
  conversations,
  models,
  perSequence,
  policyModel,
  preferences,
  prompts,
  rewardModel,
  score,
  sft,
  state,
  text,
  workflow,
} from "../../dsl/mod.ts";
import { isWorkflow, Workflow } from "../../dsl/workflow.ts";
import { digest } from "../../ir/digest.ts";
import { ppo, rewardModelling } from "./dsl_fixtures.ts";

const { actor, reward } = models({
  actor: policyModel("models/base", adamw({ lr: 1e-5 })),
  reward: rewardModel("models/reward", adamw({ lr: 1e-5 })),
});
const rollout = actor.generate({ samples: 2 }), data = prompts("p.jsonl", { batch: 2, heldOut: 0.1 });
const long = score("rewards", { response: text }, ({ response }) => response.length);

Deno.test("workflow() gives a graph with models, data, typed fields, calls and states", () => {
  const { graph } = ppo();
  assert.deepEqual(Object.keys(graph.models).sort(), ["actor", "critic", "ref", "reward"]);
  assert.deepEqual(graph.source.path, "data/prompts.jsonl");
  assert.deepEqual(graph.fields.refLogprobs, { per: "token", dtype: "f32", of: "tokens" });
  assert.deepEqual(graph.states, { klCoefficient: 0.1 });
  assert.deepEqual(graph.calls.map((c) => c.id), [
    "actor.generate",
    "reward.infer",
    "ref.infer",
    "critic.infer",
    "shapedRewards",
    "adaptiveKl",
    "gae",
    "actor.train",
    "critic.train",
  ]);
  assert.deepEqual(graph.calls[3]!.writes, { values: "values", finalValues: "finalValues" });
});

Deno.test("workflow() is the same every time the script is read", () => {
  assert.equal(digest(ppo().graph), digest(ppo().graph));
  assert.equal(JSON.stringify(ppo().graph), JSON.stringify(ppo().graph));
});

Deno.test("score functions are found by call id, in the evaluation too", () => {
  const short = score("rewards", { response: text }, ({ response }) => -response.length);
  const w = workflow({
    name: "w",
    data,
    flow: rollout.then(long),
    evaluate: { every: 1, prompts: 8, flow: rollout.then(short) },
  });
  assert.deepEqual(Object.keys(w.scores), ["score.rewards", "score.rewards#2"]);
  assert.equal(w.scores["score.rewards"]!({ response: "abc" }), 3);
  assert.equal(w.scores["score.rewards#2"]!({ response: "abc" }), -3);
});

Deno.test("an evaluation shares the ids of the calls that it shares", () => {
  const { evaluation, graph } = workflow({
    name: "w",
    data,
    flow: rollout.then(long),
    evaluate: { every: 5, prompts: 8, flow: rollout.then(reward.infer()) },
  });
  assert.deepEqual(graph.calls.map((c) => c.id), ["actor.generate", "score.rewards"]);
  assert.deepEqual(evaluation!.graph.calls.map((c) => c.id), ["actor.generate", "reward.infer"]);
  assert.deepEqual([evaluation!.every, evaluation!.prompts, evaluation!.graph.name], [5, 8, "w-evaluation"]);
  const own = ppo().evaluation!.graph;
  assert.deepEqual(own.calls.map((c) => c.id), ["actor.generate#2", "reward.infer#2"]);
});

Deno.test("an evaluation can have its own data", () => {
  const test = prompts("test.jsonl", { batch: 2 });
  const all = prompts("p.jsonl", { batch: 2 });
  const flow = rollout.then(long);
  const w = workflow({ name: "w", data: all, flow, evaluate: { every: 1, prompts: 8, flow, data: test } });
  assert.equal(w.evaluation!.graph.source.path, "test.jsonl");
  // Rows held out of the training data would then be used by nobody.
  assert.throws(
    () => workflow({ name: "w", data, flow, evaluate: { every: 1, prompts: 8, flow, data: test } }),
    /evaluate: it has data of its own, so nobody would use the rows that heldOut 0\.1 keeps from training, leave heldOut out/,
  );
  const larger = prompts("p.jsonl", { batch: 8, heldOut: 0.1 });
  workflow({ name: "w", data, flow, evaluate: { every: 1, prompts: 8, flow, data: larger } });
});

Deno.test("an evaluation trains nothing, writes no state, and needs data of its own", () => {
  const mean = state("mean", 0);
  const track = compute("track", { rewards: perSequence }, ({ rewards }) => ({ mean: rewards.mean() }), {
    states: [mean],
  });
  const flow = rollout.then(long), evaluated = flow.then(track).then(actor.train(sft()));
  assert.throws(
    () =>
      workflow({
        name: "w",
        data: prompts("p", { batch: 1 }),
        flow,
        evaluate: { every: 1, prompts: 1, flow: evaluated },
      }),
    (error: Error) => {
      assert.match(error.message, /^Cannot build workflow "w" \(dsl_workflow_test\.ts:\d+\): /);
      assert.match(error.message, /evaluate: track .* writes a state, an evaluation must not/);
      assert.match(error.message, /evaluate: actor\.train .* trains, an evaluation must not/);
      assert.match(error.message, /evaluate: nothing is held out/);
      return error instanceof TypeError;
    },
  );
  assert.throws(
    () => workflow({ name: "w", data, flow, evaluate: { every: 0, prompts: -1, flow } }),
    /every is 0, it must be a whole number above 0; prompts is -1, it must be a whole number above 0/,
  );
});

Deno.test("two models of one name are refused", () => {
  const other = models({ actor: policyModel("models/other") });
  assert.throws(
    () => workflow({ name: "w", data, flow: rollout.then(other.actor.infer().as("otherLogprobs")) }),
    /Cannot build "w": two models are called "actor" \(see actor\.infer/,
  );
});

Deno.test("a state starts at one value and is written by one call", () => {
  const track = (name: string, init: number) =>
    compute(name, { rewards: perSequence }, ({ rewards }) => ({ mean: rewards.mean() }), {
      states: [state("mean", init)],
    });
  const judged = rollout.then(long);
  assert.throws(
    () => workflow({ name: "w", data, flow: judged.then(track("one", 0), track("two", 1)) }),
    /Cannot build "w": state "mean" starts at 0 and at 1/,
  );
  assert.throws(
    () => workflow({ name: "w", data, flow: judged.then(track("one", 0), track("two", 0)) }),
    /two writes state "mean", which one writes too/,
  );
});

Deno.test("group and pair operations need groups and pairs", () => {
  const centred = compute(
    "centred",
    { rewards: perSequence },
    ({ rewards }) => ({ x: rewards.sub(rewards.groupMean()) }),
  );
  assert.throws(
    () => workflow({ name: "w", data, flow: actor.generate().then(long).then(centred) }),
    /centred folds groups, and every prompt has one sample, generate with samples above 1/,
  );
  assert.equal(workflow({ name: "w", data, flow: rollout.then(long).then(centred) }).graph.calls.length, 3);
  const { graph } = rewardModelling();
  assert.equal(graph.source.kind, "pairs");
  const paired = compute("paired", { rewards: perSequence }, ({ rewards }) => rewards.pairs());
  assert.throws(
    () => workflow({ name: "w", data, flow: rollout.then(long).then(paired) }),
    /paired splits pairs, and the data are prompts, use preferences\(\)/,
  );
});

Deno.test("all generations of a step make groups of one size", () => {
  const greedy = actor.generate({ temperature: 0 }).as({ tokens: "greedyTokens" });
  assert.throws(
    () => workflow({ name: "w", data, flow: rollout.then(greedy) }),
    /actor\.generate, actor\.generate#2 make different numbers of samples \(2, 1\) of one prompt/,
  );
});

Deno.test("a per-token compute needs its token field", () => {
  const spread = compute(
    "spread",
    { rewards: perSequence },
    ({ rewards }) => ({ advantages: rewards.spread() }),
  );
  const given = prompts("p.jsonl", { batch: 1, fields: { rewards: perSequence } });
  assert.throws(
    // @ts-expect-error nothing provides tokens
    () => workflow({ name: "w", data: given, flow: spread }),
    /no call or data set provides "tokens"/,
  );
  assert.equal(
    workflow({ name: "w", data: given, flow: actor.generate().then(spread) }).graph.calls.length,
    2,
  );
});

Deno.test("SFT and reward modelling read the data set's tokens", () => {
  const w = workflow({ name: "sft", data: conversations("c.jsonl", { batch: 4 }), flow: actor.train(sft()) });
  assert.deepEqual(w.graph.calls.map((c) => c.reads), [{ tokens: "tokens" }]);
  const pairs = preferences("p.jsonl", { batch: 4 });
  assert.throws(
    // @ts-expect-error generating needs prompts
    () => workflow({ name: "w", data: pairs, flow: rollout }),
    /no call or data set provides "prompt"/,
  );
});

Deno.test("workflow() refuses a name that cannot be a folder", () => {
  assert.throws(() => workflow({ name: "../x", data, flow: rollout }), /Cannot name a workflow "\.\.\/x"/);
});

Deno.test("isWorkflow() knows workflows, of another copy of the library too", async () => {
  const copy = await import("../../dsl/workflow.ts?copy");
  assert.notEqual(copy.Workflow, Workflow);
  assert.ok(isWorkflow(new copy.Workflow("w", ppo().graph, null, {})));
  assert.ok(isWorkflow(ppo()));
  for (const other of [null, undefined, {}, ppo().graph, rollout]) assert.equal(isWorkflow(other), false);
});
