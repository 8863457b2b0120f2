/** The wiring mistakes of a script: each is a compile error, and says what to do when it is made in JavaScript all the same. */
import assert from "node:assert/strict";
import {
  adamw,
  bradleyTerry,
  compute,
  type Flow,
  gae,
  models,
  perSequence,
  perToken,
  perTokenOf,
  policyLoss,
  policyModel,
  ppoClip,
  prompts,
  rewardModel,
  score,
  sft,
  shapedRewards,
  state,
  text,
  tokenIds,
  valueClip,
  valueLoss,
  valueModel,
  workflow,
} from "../../dsl/mod.ts";
import type { AnyFlow } from "../../dsl/flow.ts";
import type { Schema } from "../../ir/field.ts";
import type { OneField, OneTokenField } from "../../dsl/fields.ts";

const { actor, ref, critic, judge } = models({
  actor: policyModel("a", adamw({ lr: 1 })),
  ref: policyModel("a"),
  critic: valueModel("c", adamw({ lr: 1 })),
  judge: rewardModel("r"),
});
const rollout = actor.generate({ maxNewTokens: 8 });
const data = prompts("p", { batch: 1 });

type Equal<A, B> = (<T>() => T extends A ? 1 : 2) extends (<T>() => T extends B ? 1 : 2) ? true : false;
/** Checked by the compiler: every element of the tuple is `true`. */
const holds = <_ extends readonly true[]>(): void => {};

Deno.test("a flow cannot be awaited", async () => {
  await assert.rejects(async () => {
    // @ts-expect-error a flow is not a promise
    await rollout;
  }, { name: "TypeError", message: /^Cannot await a flow: .* use `await run\(workflow\)`$/ });
});

Deno.test("an async function cannot return a flow", async () => {
  // @ts-expect-error a flow is not a promise
  async function f() {
    await Promise.resolve();
    return rollout;
  }
  await assert.rejects(f, /Cannot await a flow/);
});

Deno.test("Promise.all() rejects flows", async () => {
  // Not caught by the compiler: an array of flows is an array of any values.
  await assert.rejects(() => Promise.all([rollout as unknown as Promise<void>]), /Cannot await a flow/);
});

Deno.test("then() refuses a call that writes a field of the chain", () => {
  assert.throws(
    // @ts-expect-error ref.infer writes logprobs, as generate does
    () => rollout.then(ref.infer()),
    /Cannot write field "logprobs" twice: actor\.generate .* and ref\.infer/,
  );
});

Deno.test("then() refuses siblings that write one field", () => {
  assert.throws(
    // @ts-expect-error both write rewards
    () => rollout.then(judge.infer(), score("rewards", { response: text }, () => 1)),
    /Cannot write field "rewards" twice: judge\.infer .* and score\.rewards/,
  );
});

Deno.test("then() refuses a composed flow that writes a field of another type", () => {
  const other = score("values", { response: text }, () => 1);
  assert.throws(
    // @ts-expect-error values per token and per sequence
    () => rollout.then(critic.infer()).then(other.then(judge.infer())),
    /Cannot write field "values" twice/,
  );
});

Deno.test("then() refuses a reader of another kind of value", () => {
  const perTokenRewards = compute("c", { rewards: perToken }, (b) => ({ x: b.rewards.exp() }));
  assert.throws(
    // @ts-expect-error rewards are per sequence
    () => rollout.then(judge.infer()).then(perTokenRewards),
    /Cannot read field "rewards" as f32 per token of tokens: it is f32 per sequence/,
  );
});

Deno.test("then() refuses what is no flow", () => {
  // @ts-expect-error a function
  assert.throws(() => rollout.then(() => 1), /Cannot await a flow/);
  // @ts-expect-error a number
  assert.throws(() => rollout.then(1), /no flow/);
  assert.throws(() => rollout.then(), /Cannot continue a flow: then\(\) got nothing/);
});

Deno.test("a frozen model has no train", () => {
  assert.equal("train" in ref, false);
  // @ts-expect-error this model is frozen, declare it with an optimizer to train it
  assert.throws(() => ref.train(sft()), TypeError);
});

Deno.test("a value model does not generate and a language model gives no values", () => {
  // @ts-expect-error only language models generate
  assert.equal(critic.generate, undefined);
  // @ts-expect-error final values are a value model's
  ref.infer({ final: true });
});

Deno.test("workflow() refuses fields that nothing provides", () => {
  const flow = rollout.then(actor.train(ppoClip({ epsilon: 0.2 })));
  assert.throws(
    // @ts-expect-error no call provides advantages
    () => workflow({ name: "x", data, flow }),
    /Cannot build workflow "x" \(wiring_test\.ts:\d+\): no call or data set provides "advantages"/,
  );
});

Deno.test("workflow() refuses a field that the data set already has", () => {
  const rewarded = prompts("p", { batch: 1, fields: { rewards: perSequence } });
  assert.throws(
    // @ts-expect-error rewards come from the data set and from the judge
    () => workflow({ name: "x", data: rewarded, flow: rollout.then(judge.infer()) }),
    /writes "rewards", which already exists/,
  );
});

Deno.test("workflow() refuses data of another kind", () => {
  const numbers = prompts("p", { batch: 1, fields: { answer: perSequence } });
  const exact = score("rewards", { response: text, answer: text }, (s) => Number(s.response === s.answer));
  assert.throws(
    // @ts-expect-error answer is a number and is read as text
    () => workflow({ name: "x", data: numbers, flow: rollout.then(exact) }),
    /"answer" of the data set is f32 per sequence and is read as text per sequence/,
  );
});

Deno.test("workflow() refuses reading a field beside the call that writes it", () => {
  const read = compute("centre", { rewards: perSequence }, (b) => ({ x: b.rewards.sub(b.rewards.mean()) }));
  assert.throws(
    // @ts-expect-error rewards do not exist yet when the siblings start
    () => workflow({ name: "x", data, flow: rollout.then(judge.infer(), read) }),
    /"rewards" is read before or beside judge\.infer/,
  );
});

Deno.test("train() refuses a loss for another head", () => {
  assert.throws(
    // @ts-expect-error a policy loss for a critic
    () => critic.train(ppoClip({ epsilon: 0.2 })),
    /critic .*is a value model and the loss is for lm models/,
  );
  // @ts-expect-error a reward loss for an actor
  assert.throws(() => actor.train(bradleyTerry()), /actor .*is a lm model and the loss is for reward models/);
});

Deno.test("train() refuses to stop on a metric that the loss does not have", () => {
  assert.throws(
    // @ts-expect-error the metric is called approxKl
    () => actor.train(ppoClip({ epsilon: 0.2 }), { stopWhen: "kl" }),
    /the loss has no metric "kl" but clipFraction, approxKl/,
  );
});

Deno.test("a loss must be one number", () => {
  assert.throws(
    // @ts-expect-error one number per token
    () => policyLoss({ advantages: perToken }, (now, b) => now.logprobs.mul(b.advantages)),
    /Cannot trace the policy loss: "loss" is a value per token, end it with mean\(\) or sum\(\)/,
  );
});

Deno.test("a loss reads only what it declares", () => {
  // @ts-expect-error the field is called advantages
  assert.throws(() => policyLoss({ advantages: perToken }, (now, b) => now.logprobs.mul(b.advantage).mean()));
});

Deno.test("a loss has only the outputs of its own head as now", () => {
  // @ts-expect-error a value model has no logprobs
  assert.throws(() => valueLoss({}, (now) => now.logprobs.mean()));
});

Deno.test("group operations are per sequence", () => {
  assert.throws(
    // @ts-expect-error advantages are per token
    () => policyLoss({ advantages: perToken }, (now, b) => now.logprobs.mul(b.advantages.groupMean()).mean()),
    /Cannot take groupMean of a value per token: it needs one per sequence/,
  );
});

Deno.test("values per sequence never spread over tokens by themselves", () => {
  assert.throws(
    // @ts-expect-error say spread() or atEnd()
    () => policyLoss({ advantages: perSequence }, (now, b) => now.logprobs.mul(b.advantages).mean()),
    /Cannot mul a value per token and one per sequence: .*spread\(\), atEnd\(\)/,
  );
});

Deno.test("batch scalars go with everything, on either side", () => {
  compute("scaled", { logprobs: perToken, rewards: perSequence }, ({ logprobs, rewards }) => {
    const scale = rewards.mean();
    const left: typeof logprobs = logprobs.mul(scale), right: typeof logprobs = scale.mul(logprobs);
    const plain: typeof scale = scale.mul(2).rsub(1);
    const chosen: typeof rewards = rewards.lt(0).where(scale, rewards).clamp(-1, plain);
    return { left, right, chosen, plain };
  });
});

Deno.test("one traced function reads values of one token field", () => {
  const mixed = { logprobs: perToken, greedyLogprobs: perTokenOf("greedyTokens") } as const;
  assert.throws(
    // @ts-expect-error two token fields have different lengths
    () => compute("mixed", mixed, (b) => ({ x: b.logprobs })),
    /it reads values of two token fields \(tokens, greedyTokens\)/,
  );
  // @ts-expect-error two token fields have different lengths
  assert.throws(() => policyLoss(mixed, (now) => now.logprobs.mean()));
  holds<[
    Equal<
      OneTokenField<typeof mixed> extends { error: infer E } ? E : never,
      "values of two token fields do not mix, fold one with its own compute first"
    >,
  ]>();
});

Deno.test("a traced function reads numbers only", () => {
  assert.throws(
    // @ts-expect-error text cannot be traced
    () => compute("c", { response: text }, (b) => ({ x: b.response })),
    /is text and only numbers can be traced/,
  );
  assert.throws(
    // @ts-expect-error nor can token ids
    () => compute("c", { tokens: tokenIds }, (b) => ({ x: b.tokens })),
    /only numbers can be traced/,
  );
});

Deno.test("score() reads text and numbers per sequence", () => {
  assert.throws(
    // @ts-expect-error values per token
    () => score("rewards", { logprobs: perToken }, () => 1),
    /neither text nor a number per sequence/,
  );
});

Deno.test("as() takes a name for one field and a map for several", () => {
  assert.throws(
    // @ts-expect-error generate writes several fields
    () => rollout.as("greedy"),
    /writes tokens, response, logprobs, length, finished, give a map/,
  );
  // @ts-expect-error generate writes no rewards
  assert.throws(() => rollout.as({ rewards: "x" }), /does not write rewards/);
  assert.throws(
    // @ts-expect-error log-probabilities without the tokens that they belong to
    () => rollout.as({ logprobs: "x" }),
    /"logprobs" belongs to "tokens", keep that in the map too/,
  );
  // @ts-expect-error nothing to rename
  assert.throws(() => actor.train(sft()).as("x"), /writes no field/);
  holds<[
    Equal<
      OneField<typeof rollout.writes> extends { error: infer E } ? E : never,
      'this call writes several fields, give .as() a map of those to keep, { old: "new" }'
    >,
  ]>();
});

Deno.test("a composed flow cannot be renamed", () => {
  const flow = rollout.then(judge.infer());
  // @ts-expect-error rename the calls
  assert.equal(flow.as, undefined);
});

Deno.test("from() reads other fields of the same kind", () => {
  // @ts-expect-error gae reads no rewards
  assert.throws(() => gae({ gamma: 1, lambda: 1 }).from({ rewards: "x" }), /does not read rewards/);
  const moved = shapedRewards({ beta: 0.1 }).from({
    tokens: "other",
    logprobs: "otherLogprobs",
    refLogprobs: "otherRef",
  });
  holds<
    [
      Equal<(typeof moved.reads)["otherLogprobs"]["of"], "other">,
      Equal<(typeof moved.writes)["tokenRewards"]["of"], "other">,
    ]
  >();
  assert.deepEqual(moved.writes, { tokenRewards: { per: "token", dtype: "f32", of: "other" } });
});

Deno.test("a state is one number", () => {
  const mean = state("mean", 0);
  assert.throws(
    // @ts-expect-error a value per sequence cannot become a state
    () => compute("c", { rewards: perSequence }, (b) => ({ mean: b.rewards }), { states: [mean] }),
    /state "mean" is one number, end it with mean\(\) or sum\(\)/,
  );
  const kept = compute(
    "c",
    { rewards: perSequence },
    (b, s) => ({ mean: b.rewards.mean(), x: b.rewards.sub(s.mean) }),
    {
      states: [mean],
    },
  );
  holds<[Equal<keyof typeof kept.writes, "x">]>();
});

Deno.test("a chain's type says what it reads and writes", () => {
  const flow = rollout.then(judge.infer(), ref.infer().as("refLogprobs"), critic.infer()).then(
    shapedRewards({ beta: 0.1 }),
  );
  holds<[
    Equal<keyof typeof flow.reads, "prompt">,
    Equal<
      keyof typeof flow.writes,
      | "tokens"
      | "response"
      | "logprobs"
      | "length"
      | "finished"
      | "rewards"
      | "refLogprobs"
      | "values"
      | "tokenRewards"
    >,
  ]>();
  const named: Flow<{ readonly prompt: typeof text }, { readonly tokenRewards: typeof perToken }> = flow;
  assert.equal(named, flow);
});

Deno.test("a flow in two branches is one call", () => {
  const judged = rollout.then(judge.infer()), valued = rollout.then(critic.infer());
  const both = judged.then(valued);
  assert.equal(both.drafts.length, 3);
  const w = workflow({ name: "x", data, flow: both });
  assert.deepEqual(w.graph.calls.map((c) => c.id), ["actor.generate", "judge.infer", "critic.infer"]);
  const again = actor.generate({ maxNewTokens: 8 }).then(critic.infer());
  assert.throws(() => judged.then(again), /Cannot write field "tokens" twice/);
});

Deno.test("a value loss trains a value model", () => {
  const flow = rollout.then(critic.infer(), judge.infer(), ref.infer().as("refLogprobs"))
    .then(shapedRewards({ beta: 0.1 })).then(gae({ gamma: 1, lambda: 0.95 })).then(critic.train(valueClip()));
  assert.equal(workflow({ name: "x", data, flow }).graph.calls.length, 7);
});

/** The sentence of the error that a parameter's type holds. */
type Sentence<T> = T extends { readonly error: infer E } ? E : never;
type Argument<N extends readonly AnyFlow[]> = Sentence<
  Parameters<typeof rollout.then<N>>[0]
>;
type Closing<In extends Schema, Out extends Schema> = Sentence<
  Parameters<typeof workflow<{ readonly prompt: typeof text }, In, Out>>[0]["flow"]
>;

Deno.test("compile errors are sentences", () => {
  const clash = ref.infer(), fine = ref.infer().as("refLogprobs");
  const wrong = compute("c", { logprobs: perSequence }, (b) => ({ x: b.logprobs.exp() }));
  void [clash, fine, wrong];
  holds<[
    Equal<Argument<[typeof clash]>, "this field is already written, rename it with .as()">,
    Equal<Argument<[typeof fine]>, never>,
    Equal<Argument<[typeof wrong]>, "this field holds another kind of value than is read here">,
    Equal<
      Closing<{ readonly rewards: typeof perSequence }, Schema & { readonly x: typeof perSequence }>,
      "no call or data set provides"
    >,
    Equal<
      Closing<{ readonly prompt: typeof perSequence }, { readonly x: typeof perSequence }>,
      "the data set holds another kind of value than is read"
    >,
    Equal<
      Closing<{ readonly prompt: typeof text }, { readonly prompt: typeof text }>,
      "a call writes a field that the data set already has, rename it with .as()"
    >,
    Equal<Closing<{ readonly prompt: typeof text }, { readonly x: typeof perSequence }>, never>,
  ]>();
});
