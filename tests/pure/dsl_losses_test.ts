/** What the ready-made losses and advantages compute, against plain loops. Gradients and PyTorch's numbers: tests/golden. */
import assert from "node:assert/strict";
import {
  adaptiveKl,
  bradleyTerry,
  dpo,
  gae,
  groupAdvantages,
  type perToken,
  ppoClip,
  sft,
  shapedRewards,
  state,
  valueClip,
  whiten,
} from "../../dsl/mod.ts";
import type { AnyFlow } from "../../dsl/flow.ts";
import type { ComputeCall } from "../../ir/graph.ts";
import { type Batch, evaluate } from "./expr_evaluator.ts";

type Values = readonly number[];
const lengths = [3, 1, 2];
const mean = (x: Values): number => x.reduce((a, b) => a + b, 0) / x.length;
const close = (actual: Values | undefined, expected: Values, tolerance = 1e-12) => {
  assert.equal(actual?.length, expected.length);
  actual!.forEach((x, i) =>
    assert.ok(Math.abs(x - expected[i]!) <= tolerance, `[${i}] ${x} and ${expected[i]}`)
  );
};
/** Runs the one compute call of a flow. */
const compute = (flow: AnyFlow, data: Batch) =>
  evaluate((flow.drafts[0]!.call as unknown as ComputeCall).expr, data);

const old = [-1, -2, -0.5, -1.5, -0.2, -3], now = [-0.7, -2.4, -0.45, -1.1, -0.9, -3];
const advantages = [1, -2, 0.5, 0.25, 2, -1], entropy = [1, 2, 3, 4, 5, 6];
const ratio = old.map((o, i) => Math.exp(now[i]! - o));

Deno.test("ppoClip() is the mean of the worse of the plain and the clipped objective", () => {
  const { loss, clipFraction, approxKl, entropy: reported } = evaluate(ppoClip({ epsilon: 0.2 }).expr, {
    lengths,
    model: { logprobs: now, entropy },
    batch: { logprobs: old, advantages },
  });
  const cut = ratio.map((r) => Math.min(Math.max(r, 0.8), 1.2));
  close(loss, [-mean(ratio.map((r, i) => Math.min(r * advantages[i]!, cut[i]! * advantages[i]!)))]);
  close(clipFraction, [mean(ratio.map((r, i) => Number(cut[i]! * advantages[i]! < r * advantages[i]!)))]);
  close(approxKl, [mean(ratio.map((r, i) => r - 1 - (now[i]! - old[i]!)))]);
  close(reported, [3.5]);
});

Deno.test("ppoClip() bounds the loss of negative advantages when dualClip is given", () => {
  const far = old.map((x) => x + 3),
    data = { lengths, model: { logprobs: far, entropy }, batch: { logprobs: old, advantages } };
  const { loss } = evaluate(ppoClip({ epsilon: 0.2, dualClip: 3 }).expr, data);
  const r = Math.exp(3);
  close(loss, [
    -mean(
      advantages.map((a) => a < 0 ? Math.max(Math.min(r * a, 1.2 * a), 3 * a) : Math.min(r * a, 1.2 * a)),
    ),
  ]);
});

Deno.test("ppoClip() subtracts the entropy bonus and tells when the KL target is exceeded", () => {
  const data = {
    lengths,
    model: { logprobs: now, entropy },
    batch: { logprobs: old, advantages },
  };
  const plain = evaluate(ppoClip({ epsilon: 0.2 }).expr, data);
  const asked = evaluate(
    ppoClip({ epsilon: 0.2, entropy: 0.01, targetKl: plain.approxKl![0]! - 1e-9 }).expr,
    data,
  );
  close(asked.loss, [plain.loss![0]! - 0.01 * 3.5]);
  close(asked.entropy, [3.5]);
  close(asked.klExceeded, [1]);
  close(evaluate(ppoClip({ epsilon: 0.2, targetKl: 1 }).expr, data).klExceeded, [0]);
});

Deno.test("ppoClip() reports the entropy whether or not it has a bonus", () => {
  const reads = (loss: { expr: { ops: readonly object[] } }) =>
    loss.expr.ops.flatMap((op) =>
      "from" in op && op.from === "model" ? [(op as unknown as { field: string }).field] : []
    );
  assert.deepEqual(reads(ppoClip({ epsilon: 0.2 })), ["logprobs", "entropy"]);
  assert.deepEqual(reads(ppoClip({ epsilon: 0.2, entropy: 0.01 })), ["logprobs", "entropy"]);
});

Deno.test("valueClip() is half the mean of the worse squared error", () => {
  const values = [0, 1, -1, 0.5, 0.2, 2], returns = [1, 1.5, 1, 0, 0.2, 1], v = [0.5, 1.1, -0.5, 0.5, 1, 1];
  const { loss, clipFraction, explainedVariance } = evaluate(valueClip({ epsilon: 0.2 }).expr, {
    lengths,
    model: { values: v },
    batch: { values, returns },
  });
  const plain = v.map((x, i) => (x - returns[i]!) ** 2);
  const clipped = v.map((x, i) =>
    (Math.min(Math.max(x, values[i]! - 0.2), values[i]! + 0.2) - returns[i]!) ** 2
  );
  close(loss, [0.5 * mean(plain.map((p, i) => Math.max(p, clipped[i]!)))]);
  close(clipFraction, [mean(plain.map((p, i) => Number(p < clipped[i]!)))]);
  const variance = (x: Values) => mean(x.map((y) => (y - mean(x)) ** 2));
  close(explainedVariance, [1 - variance(returns.map((r, i) => r - values[i]!)) / variance(returns)]);
  const unclipped = evaluate(valueClip().expr, { lengths, model: { values: v }, batch: { values, returns } });
  close(unclipped.loss, [0.5 * mean(plain)]);
});

Deno.test("sft() is the mean over actions of −log p", () => {
  close(evaluate(sft().expr, { lengths, model: { logprobs: now } }).loss, [-mean(now)]);
});

Deno.test("bradleyTerry() and dpo() compare the chosen with the rejected sequence", () => {
  const rewards = [1, -1, 0.5, 2], margins = [2, -1.5], logSigmoid = (x: number) => -Math.log1p(Math.exp(-x));
  const result = evaluate(bradleyTerry().expr, { lengths: [1, 1, 1, 1], model: { rewards } });
  close(result.loss, [-mean(margins.map(logSigmoid))]);
  close(result.accuracy, [0.5]);
  close(result.margin, [mean(margins)]);
  const data = { lengths: [2, 1, 1, 2], model: { logprobs: now }, batch: { refLogprobs: old } };
  const gains = now.map((x, i) => x - old[i]!),
    [a, b, c, d, e, f] = gains as [number, number, number, number, number, number];
  const direct = evaluate(dpo({ beta: 0.1 }).expr, data);
  close(direct.loss, [-mean([0.1 * (a + b - c), 0.1 * (d - e - f)].map(logSigmoid))]);
});

Deno.test("shapedRewards() puts the reward on the last action and the KL penalty on each", () => {
  const rewards = [1, 2, 3], x = old.map((o, i) => o - now[i]!);
  const estimates = {
    k1: (d: number) => d,
    k2: (d: number) => d * d / 2,
    k3: (d: number) => Math.exp(-d) - 1 + d,
  };
  for (const kl of ["k1", "k2", "k3"] as const) {
    const data = { lengths, batch: { rewards, logprobs: old, refLogprobs: now } };
    const { tokenRewards } = compute(shapedRewards({ beta: 0.5, kl }), data);
    close(tokenRewards, [0, 0, 1, 2, 0, 3].map((r, i) => r - 0.5 * estimates[kl](x[i]!)));
  }
});

Deno.test("shapedRewards() reads its coefficient from a state when given one", () => {
  const data = {
    lengths,
    batch: { rewards: [0, 0, 0], logprobs: old, refLogprobs: now },
    state: { beta: 2 },
  };
  const { tokenRewards } = compute(shapedRewards({ beta: state("beta", 1) }), data);
  close(tokenRewards, old.map((o, i) => -2 * (o - now[i]!)));
});

Deno.test("adaptiveKl() raises the coefficient above the target and lowers it below, in bounded steps", () => {
  const { beta, move } = adaptiveKl({ init: 0.1, target: 1, rate: 0.5 });
  assert.deepEqual(beta, { name: "klCoefficient", init: 0.1 });
  const next = (nats: number) => {
    const data = {
      lengths: [2],
      batch: { logprobs: [nats, 0], refLogprobs: [0, 0] },
      state: { klCoefficient: 0.1 },
    };
    return compute(move, data)["state.klCoefficient"];
  };
  close(next(1.1), [0.1 * 1.05]);
  close(next(9), [0.1 * 1.1]);
  close(next(0), [0.1 * 0.9]);
});

const estimate = (rewards: Values, values: Values, finals: Values, gamma: number, lambda: number): Values => {
  let start = 0;
  return lengths.flatMap((n, s) => {
    const r = rewards.slice(start, start + n), v = [...values.slice(start, start + n), finals[s]!];
    start += n;
    // The definition: a sum of discounted temporal-difference errors.
    return r.map((_, t) =>
      r.slice(t).reduce((a, x, k) => a + (gamma * lambda) ** k * (x + gamma * v[t + k + 1]! - v[t + k]!), 0)
    );
  });
};
const tokenRewards = [0.1, -0.2, 1, 2, 0, -1], values = [0.5, 0.4, 0.3, 0.2, 0.1, 0];

Deno.test("gae() sums discounted temporal-difference errors", () => {
  const result = compute(gae({ gamma: 0.9, lambda: 0.8 }), { lengths, batch: { tokenRewards, values } });
  const expected = estimate(tokenRewards, values, [0, 0, 0], 0.9, 0.8);
  close(result.advantages, expected);
  close(result.returns, expected.map((a, i) => a + values[i]!));
});

Deno.test("gae() bootstraps responses that were cut when asked to", () => {
  const batch = { tokenRewards, values, finalValues: [7, 8, 9], finished: [1, 0, 1] };
  const { advantages } = compute(gae({ gamma: 0.9, lambda: 0.8, bootstrapTruncated: true }), {
    lengths,
    batch,
  });
  close(advantages, estimate(tokenRewards, values, [0, 8, 0], 0.9, 0.8));
});

Deno.test("gae() whitens advantages and not returns, whiten() whitens any field", () => {
  const plain = compute(gae({ gamma: 0.9, lambda: 0.8 }), { lengths, batch: { tokenRewards, values } });
  const result = compute(gae({ gamma: 0.9, lambda: 0.8, whiten: true }), {
    lengths,
    batch: { tokenRewards, values },
  });
  const a = plain.advantages!,
    m = mean(a),
    variance = a.reduce((s, x) => s + (x - m) ** 2, 0) / (a.length - 1);
  const expected = a.map((x) => (x - m) / Math.sqrt(variance + 1e-8));
  close(result.advantages, expected);
  close(result.returns, plain.returns!);
  close(compute(whiten(), { lengths, batch: { advantages: a } }).whitenedAdvantages, expected);
});

Deno.test("groupAdvantages() compares each sample with the others of its prompt", () => {
  const data = { lengths: [1, 1, 1, 1], group: 2, batch: { rewards: [1, 3, 5, 5] } };
  const std = Math.sqrt(2) + 1e-4;
  close(compute(groupAdvantages(), data).advantages, [-1 / std, 1 / std, 0, 0]);
  close(compute(groupAdvantages({ scale: false }), data).advantages, [-1, 1, 0, 0]);
  // Of all rewards: what differs between prompts counts as well.
  const all = Math.sqrt(11 / 3) + 1e-4;
  close(compute(groupAdvantages({ scale: "batch" }), data).advantages, [-1 / all, 1 / all, 0, 0]);
});

Deno.test("whiten() can be pointed at another field of another token field", () => {
  const moved = whiten().from({ tokens: "greedyTokens", advantages: "greedyRewards" }).as("greedyWhite");
  const of: "greedyTokens" = moved.writes.greedyWhite.of;
  assert.equal(of, "greedyTokens");
  const call = moved.drafts[0]!.call as unknown as ComputeCall;
  assert.deepEqual(call.reads, { tokens: "greedyTokens", advantages: "greedyRewards" });
  assert.deepEqual(call.writes, { whitenedAdvantages: "greedyWhite" });
  const { whitenedAdvantages } = evaluate(call.expr, { lengths: [2], batch: { greedyRewards: [1, -1] } });
  close(whitenedAdvantages, [Math.SQRT1_2, -Math.SQRT1_2], 1e-8);
  const type: Omit<typeof perToken, "of"> = moved.writes.greedyWhite;
  assert.equal(type.per, "token");
});
