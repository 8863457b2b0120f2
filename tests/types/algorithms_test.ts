/** Algorithms with unusual wiring can be written, and their likely mistakes are compile errors. */
import assert from "node:assert/strict";
import {
  adamw,
  compute,
  conversations,
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
  workflow,
} from "../../dsl/mod.ts";
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

Deno.test("GRPO with a tool is typed now and refused at run time", () => {
  const search = {
    name: "search",
    description: "Looks a term up",
    parameters: { type: "object", properties: { term: { type: "string" } } },
    run: (args: Readonly<Record<string, unknown>>) => `nothing about ${args.term}`,
  };
  const correct = score(
    "rewards",
    { response: text, answer: text },
    (s) => Number(s.response.includes(s.answer)),
  );
  assert.throws(() => {
    const flow = actor.generate({ samples: 8, tools: [search], maxTurns: 4 })
      .then(correct).then(groupAdvantages()).then(actor.train(policyGradient));
    workflow({ name: "grpo", data: prompts("p.jsonl", { batch: 8, fields: { answer: text } }), flow });
  }, { name: "RangeError", message: /^Cannot generate with tools: it is not in this version of Baton/ });
  assert.throws(() => {
    // @ts-expect-error a tool needs a function
    actor.generate({ tools: [{ name: "search", description: "", parameters: {} }] });
  }, RangeError);
});

Deno.test("the kept set of truncated sampling is typed now and refused at run time", () => {
  const message =
    /^Cannot generate with keepSampledMask: it is not in this version of Baton, sample without topK/;
  assert.throws(() => actor.generate({ topP: 0.9, keepSampledMask: true }), { name: "RangeError", message });
  assert.ok(actor.generate({ topP: 0.9, keepSampledMask: false }));
});

Deno.test("select() and refill() are typed now and refused at run time", () => {
  const judged = actor.generate({ samples: 8 }).then(reward.infer());
  const message = { name: "RangeError", message: /it is not in this version of Baton/ };
  assert.throws(() => judged.then(select({ by: "rewards", keep: "bestAndWorst" })), message);
  assert.throws(() => {
    const twice: typeof judged = refill(judged, { until: "finished", maxRounds: 2 });
    return twice;
  }, message);
  assert.throws(() => {
    // @ts-expect-error values per token cannot say whether a group is good
    refill(judged, { until: "logprobs", maxRounds: 2 });
  }, message);
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
