/** Algorithms with unusual wiring can be written, and their likely mistakes are compile errors. */
import assert from "node:assert/strict";
import {
  adamw,
  compute,
  conversations,
  dapo,
  dpo,
  ema,
  groupAdvantages,
  lora,
  models,
  perBatch,
  perSequence,
  perToken,
  perTokenOf,
  policyLoss,
  policyModel,
  prompts,
  refill,
  rewardModel,
  score,
  select,
  sft,
  text,
  tokenIds,
  type Tool,
  workflow,
} from "../../dsl/mod.ts";
import { groupAt, unrolled } from "../../ir/groups.ts";
import { graphFromJson, toJson } from "../../ir/json.ts";
import type { CallGraph } from "../../ir/graph.ts";

const { actor, ref, reward } = models({
  actor: policyModel("actor", adamw({ lr: 1e-6 })),
  ref: policyModel("ref"),
  reward: rewardModel("reward"),
});

/** "id: fields read → fields written", per call. */
const wiring = (graph: CallGraph): string[] =>
  graph.calls.map((c) =>
    `${c.id}: ${Object.values(c.reads).join(" ")} → ${Object.values(c.writes).join(" ")}`
  );

/** REINFORCE with a per-sequence advantage. */
const policyGradient = policyLoss(
  { advantages: perSequence },
  (now, batch) => now.logprobs.mul(batch.advantages.spread()).mean().neg(),
);

Deno.test("ReMax: the reward of a greedy response is the baseline (Li et al. 2024)", () => {
  const greedy = actor.generate({ temperature: 0, maxNewTokens: 64 })
    .as({ tokens: "greedyTokens", response: "greedyText", logprobs: "greedyLogprobs" });
  const advantages = compute("advantages", { rewards: perSequence, baseline: perSequence }, (b) => ({
    advantages: b.rewards.sub(b.baseline),
  }));
  const rollouts = actor.generate({ maxNewTokens: 64 }).then(greedy);
  const baseline = reward.infer({ from: "greedyTokens" }).as("baseline");
  const { graph } = workflow({
    name: "remax",
    data: prompts("prompts.jsonl", { batch: 8 }),
    flow: rollouts.then(reward.infer(), baseline).then(advantages).then(actor.train(policyGradient)),
  });
  assert.deepEqual(wiring(graph), [
    "actor.generate: prompt → tokens response logprobs length finished",
    "actor.generate#2: prompt → greedyTokens greedyText greedyLogprobs",
    "reward.infer: tokens → rewards",
    "reward.infer#2: greedyTokens → baseline",
    "advantages: rewards baseline → advantages",
    "actor.train: tokens advantages → ",
  ]);
  assert.deepEqual(graph.fields.greedyLogprobs, { per: "token", dtype: "f32", of: "greedyTokens" });

  assert.throws(() => {
    // @ts-expect-error two generations write tokens
    actor.generate().then(actor.generate({ temperature: 0 }));
  }, /Cannot write field "tokens" twice/);
  assert.throws(() => {
    // @ts-expect-error two rewards write rewards
    rollouts.then(reward.infer(), reward.infer({ from: "greedyTokens" }));
  }, /Cannot write field "rewards" twice/);
  assert.throws(() => {
    // @ts-expect-error log-probabilities of the greedy tokens are not those of the sampled ones
    actor.generate().then(ref.infer({ from: "greedyTokens" }).as("refLogprobs")).then(toReference);
  }, /Cannot read field "refLogprobs" as f32 per token of tokens: it is f32 per token of greedyTokens/);
  assert.throws(() => {
    // @ts-expect-error greedyLogprobs belong to greedyTokens
    rollouts.then(compute("mixed", { logprobs: perToken, greedyLogprobs: perToken }, (b) => ({
      x: b.logprobs.sub(b.greedyLogprobs),
    })));
  }, /Cannot read field "greedyLogprobs" as f32 per token of tokens: it is f32 per token of greedyTokens/);
  assert.throws(() => {
    // @ts-expect-error advantages are per sequence here
    rollouts.then(reward.infer(), baseline).then(advantages).then(actor.train(tokenGradient));
  }, /Cannot read field "advantages" as f32 per token of tokens: it is f32 per sequence/);
});

const toReference = compute("toReference", { logprobs: perToken, refLogprobs: perToken }, (b) => ({
  drift: b.logprobs.sub(b.refLogprobs),
}));
const tokenGradient = policyLoss(
  { advantages: perToken },
  (now, batch) => now.logprobs.mul(batch.advantages).mean().neg(),
);

Deno.test("KTO: mismatched pairs estimate the reference point (Ethayarajh et al. 2024, eq. 8)", () => {
  const mismatched = {
    mismatchedLogprobs: perTokenOf("mismatchedTokens"),
    mismatchedRef: perTokenOf("mismatchedTokens"),
  };
  const referencePoint = compute("referencePoint", mismatched, (b) => ({
    referencePoint: b.mismatchedLogprobs.sub(b.mismatchedRef).sumPerSequence().mean().max(0),
  }));
  const beta = 0.1;
  const kto = policyLoss(
    { refLogprobs: perToken, desirable: perSequence, referencePoint: perBatch },
    (now, { refLogprobs, desirable, referencePoint }) => {
      const gain = now.logprobs.sub(refLogprobs).sumPerSequence().sub(referencePoint).mul(beta);
      return desirable.where(gain, gain.neg()).sigmoid().rsub(1).mean();
    },
  );
  const data = conversations("kto.jsonl", {
    batch: 8,
    fields: { desirable: perSequence, mismatchedTokens: tokenIds },
  });
  const refs = ref.infer().as("refLogprobs")
    .then(
      actor.infer({ from: "mismatchedTokens" }).as("mismatchedLogprobs"),
      ref.infer({ from: "mismatchedTokens" }).as("mismatchedRef"),
    );
  const { graph } = workflow({ name: "kto", data, flow: refs.then(referencePoint).then(actor.train(kto)) });
  assert.deepEqual(wiring(graph), [
    "ref.infer: tokens → refLogprobs",
    "actor.infer: mismatchedTokens → mismatchedLogprobs",
    "ref.infer#2: mismatchedTokens → mismatchedRef",
    "referencePoint: mismatchedTokens mismatchedLogprobs mismatchedRef → referencePoint",
    "actor.train: tokens refLogprobs desirable referencePoint → ",
  ]);

  assert.throws(
    () => {
      const swapped = actor.infer().as("mismatchedLogprobs").then(ref.infer().as("mismatchedRef"));
      // @ts-expect-error log-probabilities of the matched sequences
      swapped.then(referencePoint);
    },
    /Cannot read field "mismatchedLogprobs" as f32 per token of mismatchedTokens: it is f32 per token of tokens/,
  );
  assert.throws(() => {
    const [lacking, flow] = [conversations("kto.jsonl", { batch: 8 }), refs.then(referencePoint)];
    // @ts-expect-error the data set lacks the mismatched sequences
    workflow({ name: "kto", data: lacking, flow });
  }, /no call or data set provides "mismatchedTokens"/);
  assert.throws(() => {
    const folded = compute("referencePoint", mismatched, (b) => ({
      referencePoint: b.mismatchedLogprobs.sub(b.mismatchedRef).sumPerSequence(),
    }));
    // @ts-expect-error one reference point per batch, not per sequence
    refs.then(folded).then(actor.train(kto));
  }, /Cannot read field "referencePoint" as f32 per batch: it is f32 per sequence/);
});

Deno.test("GRPO with a tool: turns and answers between them are one response", () => {
  const search: Tool = {
    name: "search",
    call: /search\((\w+)\)$/,
    run: ([, term]) => `nothing about ${term}`,
  };
  const correct = score(
    "rewards",
    { response: text, answer: text },
    (s) => Number(s.response.includes(s.answer)),
  );
  const flow = actor.generate({ samples: 8, tools: [search], maxTurns: 3 })
    .then(correct).then(groupAdvantages()).then(actor.train(policyGradient));
  const data = prompts("p.jsonl", { batch: 8, fields: { answer: text } });
  const { graph, tools } = workflow({ name: "grpo", data, flow });
  const [generate] = graph.calls;
  assert.ok(generate?.kind === "generate");
  assert.deepEqual([generate.tools, generate.maxTurns], [["search"], 3]);
  assert.deepEqual(tools, { "actor.generate": [search] });
  assert.deepEqual(graphFromJson(toJson(graph)), graph);

  assert.throws(() => {
    // @ts-expect-error a tool needs a function
    actor.generate({ tools: [{ name: "search", call: /x/ }] });
  }, /"search" has no function run/);
  assert.throws(() => {
    // @ts-expect-error a tool is called by what a regular expression matches
    actor.generate({ tools: [{ ...search, call: "x" }] });
  }, /no regular expression call/);
  assert.throws(() => actor.generate({ tools: [{ ...search, call: /x/g }] }), /leave out the g/);
  assert.throws(
    () => actor.generate({ tools: [{ ...search, call: /x/y }] }),
    /a sticky call, leave out the y/,
  );
  assert.throws(() => actor.generate({ tools: [search, search] }), /two tools are called "search"/);
  assert.throws(() => actor.generate({ maxTurns: 2 }), /maxTurns is 2 and there are no tools/);
});

Deno.test("the kept set of truncated sampling has a size, and is there where something is kept", () => {
  const message =
    /^Cannot generate.*: keepSampledMask stores at most topK tokens for every action and topK is 0/;
  assert.throws(() => actor.generate({ topP: 0.9, keepSampledMask: true }), { name: "RangeError", message });
  assert.throws(
    () => actor.generate({ topK: 2000, keepSampledMask: true }),
    /topK is 2000, give one from 1 to 1024/,
  );
  assert.throws(() => actor.generate({ topK: 9, temperature: 0, keepSampledMask: true }), /samples nothing/);
  assert.ok(actor.generate({ topP: 0.9, keepSampledMask: false }));
  assert.ok(actor.generate({ topK: 20, topP: 0.9, keepSampledMask: true }));
});

const judged = actor.generate({ samples: 8 }).then(reward.infer());
const data = prompts("p.jsonl", { batch: 8 });

Deno.test("online DPO: the best and the worst sample are a pair (Guo et al. 2024)", () => {
  const update = ref.infer().as("refLogprobs").then(actor.train(dpo({ beta: 0.1 })));
  const flow = judged.then(select({ by: "rewards", keep: "bestAndWorst" })).then(update);
  const { graph } = workflow({ name: "online", data, flow });
  assert.deepEqual(wiring(graph).slice(2), [
    "select: rewards → ",
    "ref.infer: tokens → refLogprobs",
    "actor.train: tokens refLogprobs → ",
  ]);
  assert.deepEqual(graphFromJson(toJson(graph)), graph);
  assert.deepEqual(graph.calls.map((c) => groupAt(graph, c)), [8, 8, 8, 2, 2]);

  // Any flow: what is looked at is the specification of the graph.
  const build = (flow: object) => () => workflow({ name: "wrong", data, flow: flow as typeof judged });
  assert.throws(
    build(judged.then(update)),
    /actor.train splits pairs, and the data are prompts.*bestAndWorst/,
  );
  assert.throws(
    build(judged.then(select({ by: "rewards", keep: 9 }))),
    /select keeps 9 of 8 samples of a prompt/,
  );
  assert.throws(
    build(judged.then(select({ by: "rewards", keep: 4 })).then(actor.generate().as({ tokens: "more" }))),
    /actor.generate#2 generates after select has selected/,
  );
  assert.throws(
    build(
      judged.then(select({ by: "rewards", keep: "bestAndWorst" })).then(select({ by: "rewards", keep: 1 })),
    ),
    /select#2 selects from pairs/,
  );
  assert.throws(
    build(judged.then(select({ by: "rewards", keep: 1 })).then(groupAdvantages())),
    /groupAdvantages folds groups, and every prompt has one sample/,
  );
  assert.throws(() => select({ by: "rewards", keep: 0 }), /keep is 0/);
  assert.throws(() => {
    // @ts-expect-error values per token cannot be what samples are selected by
    judged.then(select({ by: "logprobs", keep: 4 }));
  }, /Cannot read field "logprobs" as f32 per sequence/);
  assert.throws(() => {
    // @ts-expect-error what stands beside a selection would not know which samples it sees
    judged.then(select({ by: "rewards", keep: 4 }), ref.infer().as("refLogprobs"));
  }, /select \(.*\) changes the whole step, give it a then\(\) of its own/);
});

Deno.test("DAPO: prompts whose samples are all alike are replaced (Yu et al. 2025)", () => {
  const informative = compute("informative", { rewards: perSequence }, ({ rewards }) => ({
    informative: rewards.groupStd().ge(1e-6),
  }));
  const rollout = judged.then(informative), filled = refill(rollout, { until: "informative", maxRounds: 3 });
  const same: typeof rollout = filled;
  assert.deepEqual(Object.keys(same.writes), Object.keys(rollout.writes));
  const flow = filled.then(groupAdvantages()).then(actor.train(dapo()));
  const { graph } = workflow({ name: "dapo", data, flow });
  assert.deepEqual(graph.calls.map((c) => c.id), [
    ...["actor.generate", "reward.infer", "informative", "refill", "groupAdvantages", "actor.train"],
  ]);
  assert.deepEqual(graphFromJson(toJson(graph)), graph);
  assert.equal(unrolled(graph.calls).length, 4 * 3 + 2);
  assert.throws(() => {
    // @ts-expect-error values per token cannot say whether a prompt passes
    refill(rollout, { until: "logprobs", maxRounds: 2 });
  }, /"logprobs" is f32 per token, decide by a number per sequence/);
  assert.throws(() => {
    // @ts-expect-error it changes the prompts of whatever stands beside it
    actor.generate().then(filled, ref.infer().as("refLogprobs"));
  }, /refill \(.*\) changes the whole step/);
  const whole = compute("whole", { rewards: perSequence }, ({ rewards }) => ({ whole: rewards.mean() }));
  assert.throws(
    () => {
      // @ts-expect-error refill() repeats this for some prompts only, write values of the whole batch after it
      const flow = refill(judged.then(whole), { until: "rewards", maxRounds: 2 });
      workflow({ name: "wrong", data, flow });
    },
    /whole writes "whole" of the whole batch in what refill repeats, write it after/,
  );
  const training = flow.then(actor.train(policyGradient));
  assert.throws(
    () => workflow({ name: "wrong", data, flow: refill(training, { until: "informative", maxRounds: 2 }) }),
    /refill is among what refill#2 repeats, put it after; actor.train trains in what refill#2 repeats, train after/,
  );
  assert.throws(
    () =>
      workflow({
        name: "wrong",
        data: prompts("p.jsonl", { batch: 8, heldOut: 0.1 }),
        flow,
        evaluate: { every: 1, prompts: 8, flow: filled },
      }),
    /evaluate: refill \(.*\) changes prompts, an evaluation must not/,
  );
});

Deno.test("a chain of 20 calls keeps its types", () => {
  const plus = <const A extends string, const B extends string>(from: A, to: B) =>
    compute("plus", { x: perSequence }, (b) => ({ y: b.x.add(1) })).from({ x: from }).as(to);
  const chain = actor.generate()
    .then(reward.infer(), ref.infer().as("refLogprobs"))
    .then(plus("rewards", "r1")).then(plus("r1", "r2")).then(plus("r2", "r3")).then(plus("r3", "r4"))
    .then(plus("r4", "r5")).then(plus("r5", "r6")).then(plus("r6", "r7")).then(plus("r7", "r8"))
    .then(plus("r8", "r9")).then(plus("r9", "r10")).then(plus("r10", "r11")).then(plus("r11", "r12"))
    .then(plus("r12", "r13")).then(plus("r13", "r14")).then(plus("r14", "r15")).then(
      plus("r15", "advantages"),
    )
    .then(actor.train(policyGradient));
  const { graph } = workflow({ name: "long", data: prompts("p.jsonl", { batch: 1 }), flow: chain });
  assert.equal(graph.calls.length, 20);
  assert.equal(graph.calls.at(-2)?.id, "plus#16");
  const last: typeof perSequence = chain.writes.r15;
  assert.deepEqual(last, perSequence);
  // @ts-expect-error a field that no call writes
  assert.equal(chain.writes.r16, undefined);
});

Deno.test("an adapter comes behind an optimizer, and its targets are names of linear layers", () => {
  const adapted = policyModel("m", adamw({ lr: 1 }), lora({ rank: 2, targets: ["q_proj"] }));
  // It is trained like any other model.
  models({ actor: adapted }).actor.train(sft());
  const wrong =
    /Cannot declare a model .*: an adapter is trained, give its optimizer first and then the adapter/;
  // @ts-expect-error an adapter is no optimizer
  assert.throws(() => policyModel("m", lora({ rank: 2 })), wrong);
  // @ts-expect-error a model that follows another one is not trained
  assert.throws(() => policyModel("m", ema("actor", { eta: 1 }), lora({ rank: 2 })), wrong);
  // @ts-expect-error a head is no target
  assert.throws(() => lora({ rank: 2, targets: ["lm_head"] }), /a target is lm_head/);
});
