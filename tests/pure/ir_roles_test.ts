import assert from "node:assert/strict";
import {
  adamw,
  compute,
  models,
  perSequence,
  perTokenOf,
  policyLoss,
  policyModel,
  prompts,
  rewardModel,
  score,
  text,
  valueLoss,
  valueModel,
  workflow,
} from "../../dsl/mod.ts";
import { mainRollout, predictions, referenceOf, rewardFields, rewardOf, trainName } from "../../ir/roles.ts";
import { ppo, rewardModelling } from "./dsl_fixtures.ts";

const { actor, critic, ref, twin, reward } = models({
  actor: policyModel("m", adamw({ lr: 1e-3 })),
  critic: valueModel("m", adamw({ lr: 1e-3 })),
  ref: policyModel("m"),
  twin: policyModel("m", adamw({ lr: 1e-3 })),
  reward: rewardModel("m"),
});
const reinforce = policyLoss(
  { advantages: perSequence },
  (now, { advantages }) => now.logprobs.mul(advantages.spread()).mean().neg(),
);
const centred = compute("centred", { rewards: perSequence }, ({ rewards }) => ({
  advantages: rewards.sub(rewards.mean()),
}));
const greedy = actor.generate({ temperature: 0 }).as({
  tokens: "greedyTokens",
  response: "greedyResponse",
  logprobs: "greedyLogprobs",
  length: "greedyLength",
  finished: "greedyFinished",
});
const data = prompts("p.jsonl", { batch: 2, heldOut: 0.5 });

/** ReMax with the greedy generation written first: siblings may be in any order. */
function remax() {
  const judged = greedy.then(actor.generate()).then(
    reward.infer(),
    reward.infer({ from: "greedyTokens" }).as("baseline"),
    ref.infer({ from: "greedyTokens" }).as("greedyRefLogprobs"),
    twin.infer().as("twinLogprobs"),
    ref.infer().as("refLogprobs"),
  );
  const flow = judged.then(centred).then(actor.train(reinforce));
  return workflow({ name: "remax", data, flow, evaluate: { every: 1, prompts: 1, flow: judged } });
}

Deno.test("mainRollout() is the generation that is trained on, wherever it is written", () => {
  const { graph, evaluation } = remax();
  assert.equal(graph.calls.find((c) => c.kind === "generate")!.writes.tokens, "greedyTokens");
  const rollout = mainRollout(graph)!;
  assert.equal(rollout.writes.tokens, "tokens");
  assert.equal(mainRollout(evaluation!.graph, graph)!.id, rollout.id);
  assert.equal(mainRollout(ppo().graph)!.id, "actor.generate");
  assert.equal(mainRollout(rewardModelling().graph), null);
});

Deno.test("mainRollout() of an evaluation follows what its workflow trains", () => {
  const only = compute(
    "only",
    { greedyLength: perSequence },
    ({ greedyLength }) => ({ advantages: greedyLength }),
  );
  const learn = policyLoss(
    { advantages: perSequence, greedyLogprobs: perTokenOf("greedyTokens") },
    (now, { advantages }) => now.logprobs.mul(advantages.spread()).mean().neg(),
  );
  const flow = greedy.then(only).then(actor.train(learn));
  const evaluate = { every: 1, prompts: 1, flow: actor.generate().then(greedy) };
  const { graph, evaluation } = workflow({ name: "w", data, flow, evaluate });
  assert.equal(mainRollout(evaluation!.graph, graph)!.writes.tokens, "greedyTokens");
  assert.equal(mainRollout(evaluation!.graph)!.writes.tokens, "tokens");
});

Deno.test("referenceOf() reads the rollout's tokens with another model, a frozen one first", () => {
  const { graph } = remax(), rollout = mainRollout(graph)!;
  assert.equal(referenceOf(graph, rollout)!.writes.logprobs, "refLogprobs");
  const alone = workflow({ name: "w", data, flow: actor.generate().then(actor.infer().as("again")) }).graph;
  assert.equal(referenceOf(alone, mainRollout(alone)!), null);
});

Deno.test("rewardOf() is `rewards`, or the only reward field of the rollout by any name", () => {
  const { graph } = remax();
  assert.deepEqual(rewardFields(graph), ["rewards", "baseline"]);
  assert.equal(rewardOf(graph, mainRollout(graph)), "rewards");

  const baseline = reward.infer({ from: "greedyTokens" }).as("baseline");
  const named = workflow({
    name: "w",
    data,
    flow: greedy.then(actor.generate()).then(baseline, reward.infer().as("quality")),
  }).graph;
  assert.equal(rewardOf(named, mainRollout(named)), "quality");

  const judges = [
    score("polite", { response: text }, () => 1),
    score("short", { response: text }, () => 1),
  ] as const;
  const two = workflow({ name: "w", data, flow: actor.generate().then(...judges) }).graph;
  assert.deepEqual(rewardFields(two), ["polite", "short"]);
  assert.equal(rewardOf(two, mainRollout(two)), null);

  const sum = compute("sum", { polite: perSequence, short: perSequence }, ({ polite, short }) => ({
    rewards: polite.add(short),
  }));
  const summed = workflow({ name: "w", data, flow: actor.generate().then(...judges).then(sum) }).graph;
  assert.equal(rewardOf(summed, mainRollout(summed)), "rewards");
});

Deno.test("predictions() finds what a critic is trained to say by what it reads", () => {
  const only = (list: ReturnType<typeof predictions>) => list.map((p) => [p.call.id, p.values, p.returns]);
  assert.deepEqual(only(predictions(ppo().graph)), [["critic.train", "values", "returns"]]);
  const guess = critic.infer({ from: "greedyTokens" }).as("guess");
  const goal = compute(
    "goal",
    { guess: perTokenOf("greedyTokens") },
    ({ guess }) => ({ goal: guess.add(1) }),
  );
  const loss = valueLoss(
    { guess: perTokenOf("greedyTokens"), goal: perTokenOf("greedyTokens") },
    (now, batch) => now.values.sub(batch.goal).square().mean().add(batch.guess.mean().mul(0)),
  );
  const own =
    workflow({ name: "w", data, flow: greedy.then(guess).then(goal).then(critic.train(loss)) }).graph;
  assert.deepEqual(only(predictions(own)), [["critic.train", "guess", "goal"]]);
});

Deno.test("trainName() is the model's, and the call's where a model is trained twice", () => {
  const names = (flow: Parameters<typeof workflow>[0]["flow"]) => {
    const { graph } = workflow({ name: "w", data, flow: flow as never });
    return graph.calls.flatMap((c) => c.kind === "train" ? [trainName(graph, c)] : []);
  };
  const rollout = actor.generate().then(reward.infer()).then(centred);
  assert.deepEqual(names(rollout.then(actor.train(reinforce)) as never), ["actor"]);
  assert.deepEqual(names(rollout.then(actor.train(reinforce)).then(actor.train(reinforce)) as never), [
    "actor.train",
    "actor.train#2",
  ]);
});
