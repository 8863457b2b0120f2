/** Every option out of range is listed, with its value and its range. */
import assert from "node:assert/strict";
import {
  adamw,
  adaptiveKl,
  conversations,
  dpo,
  ema,
  gae,
  groupAdvantages,
  lora,
  models,
  perSequence,
  perToken,
  policyModel,
  ppoClip,
  prompts,
  sft,
  shapedRewards,
  state,
  valueClip,
} from "../../dsl/mod.ts";

const { actor } = models({ actor: policyModel("m", adamw({ lr: 1 })) });
const refuses = (f: () => unknown, ...parts: RegExp[]) =>
  assert.throws(f, (error: Error) => {
    assert.ok(error instanceof RangeError, String(error));
    assert.match(error.message, /^Cannot \w+.* \(dsl_options_test\.ts:\d+\): /);
    for (const part of parts) assert.match(error.message, part);
    return true;
  });

Deno.test("adamw() fills in defaults", () => {
  assert.deepEqual(adamw({ lr: 1e-3 }), {
    name: "adamw",
    lr: 1e-3,
    betas: [0.9, 0.999],
    eps: 1e-8,
    weightDecay: 0,
    decay: "matrices",
    clip: 1,
    schedule: "constant",
    warmup: 0,
    minRatio: 0,
  });
});

Deno.test("lora() fills in defaults, and puts targets in one order", () => {
  const targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"] as const;
  assert.deepEqual(lora({ rank: 8 }), { rank: 8, alpha: 16, targets });
  const some = lora({ rank: 1, alpha: 0.5, targets: ["up_proj", "q_proj"], from: "a" });
  assert.deepEqual(some, { rank: 1, alpha: 0.5, targets: ["q_proj", "up_proj"], from: "a" });
  assert.deepEqual(policyModel("m", adamw({ lr: 1 }), some).lora, some);
  assert.ok(!("lora" in policyModel("m", adamw({ lr: 1 }))));
});

Deno.test("lora() lists every option out of range, and no other model follows one that trains an adapter", () => {
  const options = { rank: 0, alpha: NaN, targets: ["q_proj", "lm_head", "q_proj"], from: "" };
  refuses(
    () => lora(options as never),
    /rank is 0/,
    /alpha is NaN/,
    /a target is lm_head/,
    /names one twice/,
    /from is empty/,
  );
  refuses(() => lora({ rank: 1, targets: [] }), /targets is empty/);
  assert.throws(
    () =>
      models({
        actor: policyModel("m", adamw({ lr: 1 }), lora({ rank: 1 })),
        ref: policyModel("m", ema("actor", { eta: 0.1 })),
      }),
    /Cannot declare ref .*: it follows "actor", of which an adapter is trained alone, train it whole/,
  );
});

Deno.test("adamw() lists every option out of range", () => {
  const options = {
    lr: -1,
    betas: [0.9, 1],
    eps: 0,
    weightDecay: NaN,
    decay: "some",
    clip: -1,
    schedule: "step",
    warmup: 0.5,
    minRatio: 2,
  };
  refuses(
    () => adamw(options as never),
    /lr is -1/,
    /betas are 0\.9 and 1/,
    /eps is 0/,
    /weightDecay is NaN/,
    /decay is "some"/,
    /clip is -1/,
    /schedule is "step"/,
    /warmup is 0\.5/,
    /minRatio is 2, it must be between 0 and 1/,
  );
});

Deno.test("generate() fills in defaults and lists every option out of range", () => {
  const call = actor.generate({ samples: 4 }).drafts[0]!.call;
  assert.ok(call.kind === "generate");
  assert.deepEqual(call.sampling, {
    maxNewTokens: 512,
    temperature: 1,
    topK: 0,
    topP: 1,
    samples: 4,
    stop: [],
    ignoreEos: false,
    maxLag: 0,
  });
  const options = {
    maxNewTokens: 0,
    temperature: -1,
    topK: 1.5,
    topP: 0,
    samples: 0,
    stop: [-1],
    maxLag: -1,
    temprature: 1,
  };
  refuses(
    () => actor.generate(options),
    /there is no option temprature/,
    /maxNewTokens is 0/,
    /samples is 0/,
    /topK is 1\.5/,
    /maxLag is -1/,
    /temperature is -1/,
    /topP is 0/,
    /stop is not a list of token ids/,
  );
});

Deno.test("train() lists every option out of range", () => {
  refuses(
    () => actor.train(sft(), { minibatches: 0, epochs: 1.5, stopWhen: "x" as never }),
    /minibatches is 0/,
    /epochs is 1\.5/,
    /the loss has no metric "x" but none/,
  );
});

Deno.test("losses and advantages list every option out of range", () => {
  refuses(
    () => ppoClip({ epsilon: 1, epsilonHigh: 0, dualClip: 1, entropy: NaN, targetKl: 0 }),
    /epsilon is 1/,
    /epsilonHigh is 0/,
    /dualClip is 1/,
    /entropy is NaN/,
    /targetKl is 0/,
  );
  refuses(() => valueClip({ epsilon: 0 }), /epsilon is 0/);
  refuses(() => dpo({ beta: 0 }), /beta is 0/);
  refuses(() => gae({ gamma: 1.1, lambda: -0.1 }), /gamma is 1\.1/, /lambda is -0\.1/);
  refuses(
    () => shapedRewards({ beta: -1, kl: "k4" as never }),
    /beta is -1/,
    /kl is "k4", it must be one of k1, k2, k3/,
  );
  refuses(() => adaptiveKl({ init: 0, target: -1, rate: NaN }), /init is 0/, /target is -1/, /rate is NaN/);
  refuses(() => groupAdvantages({ eps: -1 }), /eps is -1/);
});

Deno.test("data sets list every option out of range", () => {
  refuses(() => prompts("p", { batch: 0, heldOut: 1 }), /batch is 0/, /heldOut is 1/);
  refuses(() => prompts("p", { batch: 1, fields: { prompt: perSequence } }), /field "prompt" is its own/);
  refuses(
    // @ts-expect-error a data set has no values per token
    () => conversations("p", { batch: 1, fields: { x: perToken } }),
    /field "x" is per token, a data set has values per sequence/,
  );
  assert.throws(() => prompts("", { batch: 1 }), /Cannot read prompts .*: give the path of a file/);
});

Deno.test("names are identifiers", () => {
  assert.throws(
    () => models({ "my model": policyModel("m") }),
    /Cannot name a model "my model": use letters, digits and _/,
  );
  assert.throws(() => state("2nd", 0), /Cannot name a state "2nd"/);
  assert.throws(() => state("x", NaN), /Cannot start state "x" at NaN: give a finite number/);
  assert.throws(
    () => policyModel(""),
    /Cannot declare a model .*: give the folder of its checkpoint/,
  );
});
