/** Advantages, losses and their gradients of the field, against PyTorch and TRL (`cases/losses`). */
import assert from "node:assert/strict";
import { Binding } from "../../engine/binding.ts";
import { Safetensors } from "../../engine/safetensors.ts";
import { Device } from "../../ffi/device.ts";
import { differentiate } from "../../compiler/autodiff.ts";
import { Builder } from "../../compiler/builder.ts";
import { finish } from "../../compiler/finish.ts";
import { reservedBytes } from "../../compiler/shape.ts";
import { gae, groupAdvantages, leaveOneOut, shapedRewards } from "../../dsl/advantages.ts";
import {
  bradleyTerry,
  cispo,
  dapo,
  dpo,
  drGrpo,
  grpo,
  gspo,
  hinge,
  ipo,
  ppoClip,
  rloo,
  robustDpo,
  simpo,
  valueClip,
} from "../../dsl/losses.ts";
import type { Loss } from "../../dsl/loss.ts";
import type { Expr } from "../../ir/expr.ts";
import type { Schema } from "../../ir/field.ts";
import type { Head } from "../../ir/graph.ts";
import { dim, type Value } from "../../ir/op.ts";
import { MAXIMA } from "../pure/compiler_fixtures.ts";
import { type Arrays, runCompute, runLoss } from "./loss_runner.ts";
import { largestError } from "./model_runner.ts";

const FOLDER = new URL("./cases/losses/", import.meta.url).pathname;
const golden = await Safetensors.open(`${FOLDER}losses.safetensors`);
const constants = JSON.parse(await Deno.readTextFile(`${FOLDER}losses.json`));
const get = (name: string) => golden.read(name);

/** Actions per sequence of the padded [6, 12] arrays. */
const LENGTHS = [12, 9, 7, 12, 1, 4];
const ends = (lengths: readonly number[]) =>
  lengths.map((_, i) => lengths.slice(0, i + 1).reduce((a, b) => a + b));
const actions = LENGTHS.reduce((a, b) => a + b);
const LIVE = { actions, sequences: LENGTHS.length };
const COUNTS = { actionEnds: ends(LENGTHS), "count.token": [actions], "count.sequence": [LENGTHS.length] };
/** A padded array without its padding. */
const packed = async (name: string): Promise<Float32Array> => {
  const data = await get(name), width = data.length / LENGTHS.length;
  return Float32Array.from(LENGTHS.flatMap((n, r) => [...data.subarray(r * width, r * width + n)]));
};

const device = Device.open({ threads: 1 });
const close = (actual: ArrayLike<number>, expected: ArrayLike<number>, what: string) => {
  const error = largestError(Float32Array.from(actual), expected);
  assert.ok(error < 1e-5, `${what}: ${error}`);
};
const exprOf = (flow: { readonly drafts: readonly { readonly call: object; readonly reads: Schema }[] }) => {
  const { call, reads } = flow.drafts[0]!;
  return { expr: (call as { expr: Expr }).expr, fields: reads };
};

/** A loss of per-action log-probabilities (or values) against its golden value and gradient. */
async function checkLoss(
  name: string,
  loss: Loss<Head, Schema>,
  now: Arrays,
  data: Arrays,
  expected: { readonly loss: string; readonly gradient: string },
): Promise<Record<string, number>> {
  const { outputs, gradients } = await runLoss(
    device,
    loss.expr,
    loss.reads,
    now,
    { ...COUNTS, ...data },
    LIVE,
  );
  close([outputs.loss!], await get(expected.loss), `${name} loss`);
  close(gradients[Object.keys(now)[0]!]!, await packed(expected.gradient), `${name} gradient`);
  return outputs;
}

Deno.test("shapedRewards() and gae() agree with PyTorch", async () => {
  const { gamma, lam, kl_coef } = constants.gae;
  const data = {
    ...COUNTS,
    logprobs: await packed("old_logp"),
    refLogprobs: await packed("ref_logp"),
    rewards: await get("score"),
  };
  const shaped = exprOf(shapedRewards({ beta: kl_coef }));
  const { tokenRewards } = await runCompute(device, shaped.expr, shaped.fields, data, LIVE);
  close(tokenRewards!, await packed("gae_rewards"), "rewards");
  for (const whiten of [false, true]) {
    const { expr, fields } = exprOf(gae({ gamma, lambda: lam, whiten }));
    const inputs = { ...COUNTS, tokenRewards: tokenRewards!, values: await packed("values") };
    const { advantages, returns } = await runCompute(device, expr, fields, inputs, LIVE);
    close(advantages!, await packed(whiten ? "gae_advantages_whitened" : "gae_advantages"), "advantages");
    close(returns!, await packed("gae_returns"), "returns");
  }
});

Deno.test("shapedRewards() estimates KL by k1, k2 and k3 like PyTorch", async () => {
  const data = {
    ...COUNTS,
    logprobs: await packed("new_logp"),
    refLogprobs: await packed("ref_logp"),
    rewards: LENGTHS.map(() => 0),
  };
  for (const kl of ["k1", "k2", "k3"] as const) {
    const { expr, fields } = exprOf(shapedRewards({ beta: 1, kl }));
    const { tokenRewards } = await runCompute(device, expr, fields, data, LIVE);
    close(tokenRewards!.map((x) => -x), await packed(`kl_${kl}`), kl);
  }
});

Deno.test("ppoClip() agrees with PyTorch in loss, gradient and clip fraction", async () => {
  const { clip, clipfrac, dual_clip_c } = constants.ppo, logprobs = await packed("new_logp");
  // The entropy is a metric only: any values do.
  const now = { logprobs, entropy: logprobs.map((x) => -x) };
  const data = { logprobs: await packed("old_logp"), advantages: await packed("gae_advantages_whitened") };
  const expected = { loss: "ppo_loss", gradient: "ppo_grad_new_logp" };
  const outputs = await checkLoss("ppo", ppoClip({ epsilon: clip }), now, data, expected);
  close([outputs.clipFraction!], [clipfrac], "clip fraction");
  const dual = ppoClip({ epsilon: clip, dualClip: dual_clip_c });
  const result = await runLoss(device, dual.expr, dual.reads, now, { ...COUNTS, ...data }, LIVE);
  close([result.outputs.loss!], await get("ppo_dual_clip_loss"), "dual clip");
});

Deno.test("valueClip() agrees with PyTorch in loss and gradient", async () => {
  const data = { values: await packed("values"), returns: await packed("gae_returns") };
  const now = { values: await packed("value_pred") };
  await checkLoss("value", valueClip({ epsilon: constants.value.clip }), now, data, {
    loss: "value_loss",
    gradient: "value_grad",
  });
});

Deno.test("losses of the GRPO family agree with PyTorch and TRL in loss and gradient", async () => {
  const { beta, eps_low, eps_high, max_completion_length } = constants.grpo;
  const range = { epsilon: eps_low, epsilonHigh: eps_high, beta };
  const losses: Record<string, Loss<Head, Schema>> = {
    grpo: grpo(range),
    bnpo: grpo({ ...range, average: "tokens" }),
    dr_grpo: drGrpo({ ...range, maxTokens: max_completion_length }),
    dapo: dapo(range),
    gspo: gspo(range),
    gspo_token_mean: gspo({ ...range, average: "tokens" }),
    cispo: cispo({ maxRatio: eps_high, beta }),
  };
  assert.deepEqual(Object.keys(losses).sort(), Object.keys(constants.grpo.losses).sort());
  const logprobs = await packed("new_logp"), now = { logprobs, entropy: logprobs.map((x) => -x) };
  const data = {
    logprobs: await packed("old_logp"),
    refLogprobs: await packed("ref_logp"),
    advantages: await get("grpo_seq_adv"),
  };
  for (const [kind, loss] of Object.entries(losses)) {
    await checkLoss(kind, loss, now, data, { loss: `grpo_loss.${kind}`, gradient: `grpo_grad.${kind}` });
  }
});

Deno.test("rloo() agrees with TRL in loss and gradient", async () => {
  const logprobs = await packed("new_logp"), now = { logprobs, entropy: logprobs.map((x) => -x) };
  const data = { logprobs: await packed("old_logp"), advantages: await get("grpo_seq_adv") };
  await checkLoss("rloo", rloo({ epsilon: 0.2 }), now, data, { loss: "rloo_loss", gradient: "rloo_grad" });
});

Deno.test("group and leave-one-out advantages agree with PyTorch and TRL", async () => {
  const rewards = await get("group_rewards"),
    group = constants.group.num_generations,
    n = rewards.length,
    eps = constants.group.eps;
  const live = { sequences: n, groups: n / group };
  const data = { rewards, groupEnds: Array.from({ length: n / group }, (_, i) => (i + 1) * group) };
  const run = async (flow: Parameters<typeof exprOf>[0]) => {
    const { expr, fields } = exprOf(flow);
    return await runCompute(device, expr, fields, data, live);
  };
  const [trl, plain, verl] = await Promise.all(
    [{ eps }, { scale: false }, { eps: 1e-6 }].map((o) => run(groupAdvantages(o))),
  );
  close(trl!.advantages!, await get("grpo_adv"), "scaled");
  close(plain!.advantages!, await get("grpo_adv_nostd"), "centred");
  close(verl!.advantages!, await get("grpo_adv_verl"), "verl");
  assert.ok(trl!.advantages!.subarray(8).every((x) => x === 0), "a constant group has advantage 0");
  const of = async (flow: Parameters<typeof exprOf>[0]) => (await run(flow)).advantages!;
  close(await of(leaveOneOut()), await get("rloo_adv"), "leave one out");
  close(await of(leaveOneOut({ normalize: true, eps })), await get("rloo_adv_normalized"), "normalised");
  close(
    await of(groupAdvantages({ scale: "batch", eps })),
    await get("grpo_adv_batchstd"),
    "batch deviation",
  );
});

/** Chosen and rejected numbers as sequences 2i and 2i + 1. */
const interleave = (a: ArrayLike<number>, b: ArrayLike<number>) =>
  Float32Array.from({ length: 2 * a.length }, (_, i) => (i % 2 ? b : a)[i >> 1]!);
const split = (x: Float32Array) =>
  [x.filter((_, i) => i % 2 === 0), x.filter((_, i) => i % 2 === 1)] as const;

Deno.test("losses of the DPO family agree with PyTorch and TRL in loss and gradient", async () => {
  const { beta } = constants.dpo, pairs = 8;
  const lengths = [
    ...interleave(await golden.readIntegers("dpo_len_chosen"), await golden.readIntegers("dpo_len_rejected")),
  ];
  const actionEnds = ends(lengths), live = { actions: actionEnds.at(-1)!, sequences: 2 * pairs, pairs };
  /** Every action has the same share of its sequence's sum; then it has the gradient of the sum, too. */
  const spread = async (name: string) => {
    const sums = interleave(await get(`dpo_${name}_chosen`), await get(`dpo_${name}_rejected`));
    return Float32Array.from(lengths.flatMap((n, i) => new Array<number>(n).fill(sums[i]! / n)));
  };
  const data: Arrays = {
    "count.pair": [pairs],
    actionEnds,
    refLogprobs: await spread("ref"),
  };
  const now = { logprobs: await spread("policy") };
  const losses: Record<string, Loss<Head, Schema>> = {
    sigmoid: dpo({ beta }),
    "sigmoid_ls0.1": dpo({ beta, labelSmoothing: 0.1 }),
    "robust_ls0.1": robustDpo({ beta, flipped: 0.1 }),
    hinge: hinge({ beta }),
    ipo_lengthnorm: ipo({ beta }),
    simpo_b2_g1: simpo({ beta: 2, gamma: 1 }),
  };
  assert.deepEqual(Object.keys(losses).sort(), Object.keys(constants.dpo.losses).sort());
  for (const [kind, loss] of Object.entries(losses)) {
    const { outputs, gradients } = await runLoss(device, loss.expr, loss.reads, now, data, live);
    const error = Math.abs(outputs.loss! / (await get(`dpo_loss.${kind}`))[0]! - 1);
    assert.ok(error < 1e-5, `${kind} loss: ${error}`);
    const first = gradients.logprobs!.filter((_, a) => a === 0 || actionEnds.includes(a));
    assert.ok(
      gradients.logprobs!.every((g, a) => g === first[actionEnds.findIndex((end) => a < end)]),
      `${kind} has one gradient in a sequence`,
    );
    const [chosen, rejected] = split(first);
    close(chosen, await get(`dpo_grad_chosen.${kind}`), `${kind} chosen`);
    close(rejected, await get(`dpo_grad_rejected.${kind}`), `${kind} rejected`);
    if (kind === "sigmoid") close([outputs.accuracy!], await get("dpo_reward_accuracy"), "accuracy");
  }
});

Deno.test("bradleyTerry() agrees with PyTorch in loss and gradient", async () => {
  const rewards = interleave(await get("rm_chosen"), await get("rm_rejected")),
    live = { sequences: 16, pairs: 8 },
    loss = bradleyTerry();
  const { outputs, gradients } = await runLoss(device, loss.expr, loss.reads, { rewards }, {
    "count.pair": [8],
  }, live);
  close([outputs.loss!], await get("rm_loss"), "loss");
  const [chosen, rejected] = split(gradients.rewards!);
  close(chosen, await get("rm_grad_chosen"), "chosen");
  close(rejected, await get("rm_grad_rejected"), "rejected");
});

Deno.test("log-probabilities, entropies and their gradients by the logits agree with PyTorch", async () => {
  const logits = await get("ce_logits"),
    targets = await golden.readIntegers("ce_targets"),
    n = targets.length,
    vocab = logits.length / n;
  const maxima = { ...MAXIMA, actions: n };
  for (const [output, expected] of [["logprobs", "logprob"], ["entropy", "entropy"]] as const) {
    const b = new Builder((v) => reservedBytes(v, maxima)), rows = dim("actions");
    // With the identity as weight, hidden states are the logits.
    const x = b.declare("params", "logits", [rows, vocab]),
      w = b.declare("params", "identity", [vocab / 16, vocab, 16]);
    const weight = { value: w, outputs: vocab, inputs: vocab, panels: true };
    const made = b.linearLogprob(
      x,
      weight,
      b.input("targets", [rows], "i32"),
      b.input("inverseTemperature", [1]),
      true,
    );
    const result = made[output] as Value;
    b.output("result", result);
    differentiate(b, b.total(result), new Map([[x, b.declare("grads", "logits", x.shape)]]));
    const binding = new Binding(device, finish("head", b, b.ops, { maxima }), {}), live = { actions: n };
    binding.zero("grads");
    binding.write("params/logits", logits);
    binding.write(
      "params/identity",
      Float32Array.from({ length: vocab * vocab }, (_, i) => {
        const panel = Math.floor(i / (16 * vocab)), k = Math.floor(i / 16) % vocab;
        return Number(16 * panel + i % 16 === k);
      }),
    );
    binding.write("inputs/targets", targets);
    binding.write("inputs/inverseTemperature", Float32Array.of(1));
    await binding.run(live);
    close(binding.read("outputs/result", live), await get(`ce_${expected}`), output);
    close(binding.read("grads/logits", live), await get(`ce_grad_${expected}`), `gradient of ${output}`);
    binding.dispose();
  }
});

Deno.test("the optimizer's norm and clipping agree with PyTorch's clip_grad_norm_", async () => {
  const inputs = [await get("clip_in0"), await get("clip_in1")],
    outputs = [await get("clip_out0"), await get("clip_out1")];
  const b = new Builder((v) => reservedBytes(v, MAXIMA)), hyper = b.input("hyper", [3]);
  const grads = inputs.map((g, i) => b.declare("grads", `g${i}`, [g.length]));
  const count = inputs.length, attrs = inputs.flatMap((g, i) => [g.length, i]);
  const sums = b.one("squareSums", grads, [2 * count], [count, ...attrs]),
    norm = b.one("norm", [sums], [1], [count]);
  b.output("norm", norm);
  const beta1 = 0.9;
  grads.forEach((g, i) => {
    const places = [
      b.declare("params", `p${i}`, g.shape),
      b.declare("moments", `m${i}`, g.shape),
      b.declare("moments", `v${i}`, g.shape),
    ];
    const [p, m, v] = places as [Value, Value, Value],
      after = places.map((x) => b.value(x.name, x.shape, { place: x.place }));
    b.emit("adamw", [p, g, m, v, hyper, norm], after, [inputs[i]!.length, beta1, 0.999, 1e-8, 0, 1, 0]);
  });
  const binding = new Binding(device, finish("clip", b, b.ops, { maxima: MAXIMA }), {});
  binding.zero("moments");
  binding.zero("params");
  inputs.forEach((g, i) => binding.write(`grads/g${i}`, g));
  binding.write("inputs/hyper", Float32Array.of(0, 1, 1));
  await binding.run({});
  close(binding.read("outputs/norm"), await get("clip_norm"), "norm");
  // From zero, the first moment is (1 − β₁) times the gradient that the optimizer saw.
  outputs.forEach((g, i) =>
    close(binding.read(`moments/m${i}`).map((m) => m / (1 - beta1)), g, `gradient ${i}`)
  );
  binding.dispose();
});
