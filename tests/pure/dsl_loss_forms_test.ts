/** Losses without golden numbers: their closed form in float64, and their gradient against central differences. */
import assert from "node:assert/strict";
import {
  bradleyTerry,
  cispo,
  cpo,
  dapo,
  distill,
  dpo,
  drGrpo,
  grpo,
  gspo,
  hinge,
  ipo,
  kto,
  ktoReferencePoint,
  orpo,
  ppoClip,
  reinforce,
  rloo,
  robustDpo,
  sft,
  simpo,
  valueClip,
} from "../../dsl/mod.ts";
import type { Loss } from "../../dsl/loss.ts";
import type { Schema } from "../../ir/field.ts";
import type { ComputeCall, Head } from "../../ir/graph.ts";
import { evaluate } from "./expr_evaluator.ts";
import { checkGradients, lossAndGradients } from "./loss_gradients.ts";

const lengths = [3, 1, 2, 2];
const model = {
  logprobs: [-0.7, -2.4, -0.45, -1.1, -0.9, -3, -0.2, -1.3],
  entropy: [1, 2, 3, 4, 5, 6, 1.5, 2.5],
  values: [0.5, 1.1, -0.5, 0.5, 1, 1, 0.3, -0.9],
  rewards: [1, -1, 0.5, 2],
};
const batch = {
  logprobs: [-1, -2, -0.5, -1.5, -0.2, -3, -0.4, -1],
  refLogprobs: [-0.9, -2.1, -0.6, -1, -0.5, -2.5, -0.3, -1.4],
  teacherLogprobs: [-0.5, -2.9, -0.4, -1.2, -0.8, -2, -0.1, -1.1],
  advantages: [1, -2, 0.5, 0.25],
  desirable: [1, 0, 0, 1],
  referencePoint: [0.3],
  values: [0, 1, -1, 0.5, 0.2, 2, 0.4, -1],
  returns: [1, 1.5, 1, 0, 0.2, 1.4, 0.5, 3],
  pairWeight: [0.5, 2],
  margins: [0.4, 0.1],
};
const data = { lengths, model, batch };
const sum = (x: readonly number[]) => x.reduce((a, b) => a + b, 0),
  mean = (x: readonly number[]) => sum(x) / x.length;
const rows = (x: readonly number[]) =>
  lengths.map((n, i) => x.slice(sum(lengths.slice(0, i)), sum(lengths.slice(0, i)) + n));
const sigmoid = (x: number) => 1 / (1 + Math.exp(-x)), logSigmoid = (x: number) => -Math.log1p(Math.exp(-x));
const sums = rows(model.logprobs).map(sum), means = rows(model.logprobs).map(mean);
const gains = sums.map((s, i) => s - sum(rows(batch.refLogprobs)[i]!));

/** The loss of the evaluator, of the compiled program, and of a formula. */
function agree(name: string, loss: Loss<Head, Schema>, expected: number): Record<string, readonly number[]> {
  const result = evaluate(loss.expr, data), compiled = lossAndGradients(loss.expr, data).loss;
  assert.ok(Math.abs(result.loss![0]! - expected) < 1e-12, `${name}: ${result.loss} and ${expected}`);
  assert.ok(Math.abs(compiled - expected) < 1e-12, `${name} compiled: ${compiled} and ${expected}`);
  return result;
}

Deno.test("kto() weighs gains and losses around the reference point (Ethayarajh et al. 2024, eq. 8)", () => {
  const z = 0.3, beta = 0.5;
  const each = gains.map((r, i) =>
    batch.desirable[i] ? 1.5 * (1 - sigmoid(beta * (r - z))) : 0.8 * (1 - sigmoid(beta * (z - r)))
  );
  const loss = kto({ beta, desirableWeight: 1.5, undesirableWeight: 0.8 });
  const { desirableReward, undesirableReward, margin } = agree("kto", loss, mean(each));
  const reward = (kind: number) => beta * mean(gains.filter((_, i) => batch.desirable[i] === kind));
  assert.ok(Math.abs(desirableReward![0]! - reward(1)) < 1e-12);
  assert.ok(Math.abs(undesirableReward![0]! - reward(0)) < 1e-12);
  assert.ok(Math.abs(margin![0]! - reward(1) + reward(0)) < 1e-12);
});

Deno.test("ktoReferencePoint() is the mean gain of mismatched responses, and never below 0", () => {
  const call = ktoReferencePoint().drafts[0]!.call as unknown as ComputeCall;
  const at = (ref: readonly number[]) =>
    evaluate(call.expr, { lengths: [2, 1], batch: { mismatchedLogprobs: [-1, -2, -3], mismatchedRef: ref } })
      .referencePoint;
  assert.deepEqual(at([-2, -3, -3]), [1]);
  assert.deepEqual(at([0, 0, 0]), [0]);
});

Deno.test("orpo() is the likelihood of the chosen and the log odds ratio (Hong et al. 2024, eq. 6 and 7)", () => {
  const odds = (x: number) => Math.exp(x) / (1 - Math.exp(x)),
    [a, b, c, d] = means as [number, number, number, number];
  const ratios = [Math.log(odds(a) / odds(b)), Math.log(odds(c) / odds(d))];
  agree("orpo", orpo({ lambda: 0.2 }), -mean([a, c]) - 0.2 * mean(ratios.map(logSigmoid)));
});

Deno.test("orpo() has a finite loss and gradient where a sequence is certain", () => {
  const certain = { ...data, model: { ...model, logprobs: model.logprobs.map(() => 0) } };
  const { loss, gradients } = lossAndGradients(orpo({ lambda: 0.2 }).expr, certain);
  assert.ok(Number.isFinite(loss) && gradients.logprobs!.every(Number.isFinite));
});

Deno.test("cpo() is DPO's term without a reference and the likelihood of the chosen (Xu et al. 2024, eq. 5)", () => {
  const [a, b, c, d] = sums as [number, number, number, number], h = [0.5 * (a - b), 0.5 * (c - d)];
  const nll = -mean([means[0]!, means[2]!]);
  agree("cpo", cpo({ beta: 0.5, alpha: 2 }), -mean(h.map(logSigmoid)) + 2 * nll);
  const smooth = h.map((x) => -0.9 * logSigmoid(x) - 0.1 * logSigmoid(-x));
  agree("smoothed cpo", cpo({ beta: 0.5, labelSmoothing: 0.1 }), mean(smooth) + nll);
});

Deno.test("ipo() with sums is the paper's (Azar et al. 2023, eq. 17)", () => {
  const [a, b, c, d] = gains as [number, number, number, number];
  agree("ipo", ipo({ beta: 0.2, sum: true }), mean([a - b, c - d].map((h) => (h - 2.5) ** 2)));
});

Deno.test("distill() weighs each action with how much likelier it is to the teacher", () => {
  const ratio = model.logprobs.map((x, i) => Math.exp(x - batch.logprobs[i]!));
  const better = batch.teacherLogprobs.map((t, i) => t - batch.logprobs[i]!);
  const { reverseKl } = agree("distill", distill(), -mean(ratio.map((r, i) => r * better[i]!)));
  assert.ok(Math.abs(reverseKl![0]! + mean(better)) < 1e-12);
  const bounded = ratio.map((r, i) => Math.min(r * better[i]!, Math.min(Math.max(r, 0.8), 1.2) * better[i]!));
  agree("clipped distill", distill({ epsilon: 0.2 }), -mean(bounded));
});

Deno.test("distill()'s gradient is that of the exact reverse KL where samples are weighed by their probability", () => {
  // Two tokens to choose from, sampled in proportion: the estimate over both, weighed with p, is the gradient of KL by the logit.
  const p = [0.7, 0.3], q = [0.4, 0.6], log = Math.log;
  const one = (k: number) => {
    const logprobs = [log(p[k]!)], teacherLogprobs = [log(q[k]!)];
    return lossAndGradients(distill().expr, {
      lengths: [1],
      model: { logprobs, entropy: [0] },
      batch: { logprobs, teacherLogprobs },
    }).gradients.logprobs![0]!;
  };
  // d log p(0) / d logit = 1 − p(0), d log p(1) / d logit = −p(0).
  const estimate = p[0]! * one(0) * (1 - p[0]!) + p[1]! * one(1) * -p[0]!;
  const kl = (x: number) => {
    const s = sigmoid(x);
    return s * log(s / q[0]!) + (1 - s) * log((1 - s) / q[1]!);
  };
  const logit = log(p[0]! / p[1]!), exact = (kl(logit + 1e-5) - kl(logit - 1e-5)) / 2e-5;
  assert.ok(Math.abs(estimate - exact) < 1e-8, `${estimate} and ${exact}`);
});

Deno.test("reinforce() is −A · log p of the response, summed or averaged", () => {
  const each = sums.map((s, i) => s * batch.advantages[i]!);
  agree("sum", reinforce(), -mean(each));
  agree("sequences", reinforce({ average: "sequences" }), -mean(each.map((x, i) => x / lengths[i]!)));
  agree("tokens", reinforce({ average: "tokens" }), -sum(each) / sum(lengths));
});

Deno.test("valueClip() counts errors beyond huber linearly", () => {
  const errors = model.values.map((v, i) => Math.abs(v - batch.returns[i]!));
  const each = errors.map((e) => e < 0.6 ? e * e : 1.2 * e - 0.36);
  agree("huber", valueClip({ huber: 0.6 }), 0.5 * mean(each));
});

Deno.test("bradleyTerry() weighs pairs, subtracts margins and keeps rewards centred", () => {
  const h = [2, -1.5], weights = batch.pairWeight;
  agree("weighted", bradleyTerry({ weighted: true }), -mean(h.map((x, i) => weights[i]! * logSigmoid(x))));
  agree(
    "margins",
    bradleyTerry({ margins: true }),
    -mean(h.map((x, i) => logSigmoid(x - batch.margins[i]!))),
  );
  agree("centred", bradleyTerry({ centre: 0.1 }), -mean(h.map(logSigmoid)) + 0.1 * mean([0, 2.5 ** 2]));
});

Deno.test("gradients of the preference, value and reward losses agree with central differences", () => {
  const losses: Record<string, Loss<Head, Schema>> = {
    dpo: dpo({ beta: 0.3 }),
    "smoothed dpo": dpo({ beta: 0.3, labelSmoothing: 0.2 }),
    robust: robustDpo({ beta: 0.3, flipped: 0.2 }),
    hinge: hinge({ beta: 0.3 }),
    ipo: ipo({ beta: 0.3 }),
    "ipo of sums": ipo({ beta: 0.3, sum: true }),
    kto: kto({ beta: 0.3, desirableWeight: 2 }),
    orpo: orpo({ lambda: 0.3 }),
    cpo: cpo({ beta: 0.3, labelSmoothing: 0.1 }),
    simpo: simpo({ beta: 2, gamma: 0.5 }),
    sft: sft(),
    value: valueClip({ epsilon: 0.3, huber: 0.7 }),
    reward: bradleyTerry({ weighted: true, margins: true, centre: 0.1 }),
  };
  for (const [name, loss] of Object.entries(losses)) checkGradients(name, loss.expr, data);
});

Deno.test("gradients of the policy losses agree with central differences", () => {
  const losses: Record<string, Loss<Head, Schema>> = {
    grpo: grpo({ epsilon: 0.2, beta: 0.1 }),
    drGrpo: drGrpo({ epsilon: 0.2, maxTokens: 4 }),
    dapo: dapo(),
    gspo: gspo({ epsilon: 0.2, epsilonHigh: 0.3 }),
    rloo: rloo({ epsilon: 0.2 }),
    reinforce: reinforce(),
    distill: distill({ epsilon: 0.5 }),
  };
  for (const [name, loss] of Object.entries(losses)) checkGradients(name, loss.expr, data, ["entropy"]);
  const perToken = { ...data, batch: { ...batch, advantages: [1, -2, 0.5, 0.25, 2, -1, 1, -1] } };
  checkGradients("ppo", ppoClip({ epsilon: 0.2, entropy: 0.1, dualClip: 1.1 }).expr, perToken);
  // The weight of CISPO is constant: its loss is no function whose differences are its gradient.
  const weight = model.logprobs.map((x, i) => Math.min(Math.exp(x - batch.logprobs[i]!), 1.2));
  const { gradients } = lossAndGradients(cispo({ maxRatio: 1.2 }).expr, data);
  const spread = lengths.flatMap((n, i) => new Array<number>(n).fill(batch.advantages[i]!));
  gradients.logprobs!.forEach((g, i) => assert.ok(Math.abs(g + weight[i]! * spread[i]! / 8) < 1e-12));
});
