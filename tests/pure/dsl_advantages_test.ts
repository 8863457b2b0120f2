/** Advantages and rewards without golden numbers, against plain loops; states over several steps. */
import assert from "node:assert/strict";
import {
  baselineAdvantages,
  clippedRewards,
  leaveOneOut,
  overlongShaping,
  ppoClip,
  returnsToGo,
  runningRewards,
  valueNorm,
} from "../../dsl/mod.ts";
import type { AnyFlow } from "../../dsl/flow.ts";
import type { ComputeCall } from "../../ir/graph.ts";
import { type Batch, evaluate } from "./expr_evaluator.ts";

type Values = readonly number[];
const mean = (x: Values): number => x.reduce((a, b) => a + b, 0) / x.length;
const deviation = (x: Values, free = 1) =>
  Math.sqrt(x.reduce((s, v) => s + (v - mean(x)) ** 2, 0) / (x.length - free));
const close = (actual: Values | undefined, expected: Values, tolerance = 1e-12) => {
  assert.equal(actual?.length, expected.length);
  actual!.forEach((x, i) =>
    assert.ok(Math.abs(x - expected[i]!) <= tolerance, `[${i}] ${x} and ${expected[i]}`)
  );
};
/** Runs the one compute call of a flow. */
const compute = (flow: AnyFlow, data: Batch) =>
  evaluate((flow.drafts[0]!.call as unknown as ComputeCall).expr, data);
const four = (batch: Readonly<Record<string, Values>>): Batch => ({ lengths: [1, 1, 1, 1], group: 2, batch });

Deno.test("clippedRewards() shifts, scales and cuts", () => {
  const flow = clippedRewards({ limit: 2, scale: 0.5, bias: 1 });
  close(compute(flow, four({ rewards: [1, 3, 9, -9] })).clippedRewards, [0, 1, 2, -2]);
  assert.throws(() => clippedRewards({ limit: 0, bias: NaN }), /limit is 0.*; bias is NaN/);
});

Deno.test("overlongShaping() falls from 0 to −1 in the buffer (Yu et al. 2025, eq. 13)", () => {
  const flow = overlongShaping({ maxLength: 20, buffer: 4 });
  const { lengthRewards } = compute(flow, four({ rewards: [1, 1, 1, 0], length: [10, 16, 17, 20] }));
  close(lengthRewards, [1, 1, 0.75, -1]);
  assert.throws(() => overlongShaping({ maxLength: 4, buffer: 5 }), /buffer is 5/);
});

Deno.test("returnsToGo() sums discounted rewards from each action on, and whitens them", () => {
  const tokenRewards = [0.1, -0.2, 1, 2, 0, -1], lengths = [3, 1, 2], batch = { tokenRewards };
  const expected = [0.1 - 0.1 + 0.25, -0.2 + 0.5, 1, 2, -0.5, -1];
  close(compute(returnsToGo({ gamma: 0.5, whiten: false }), { lengths, batch }).advantages, expected);
  const white = expected.map((x) => (x - mean(expected)) / Math.sqrt(deviation(expected) ** 2 + 1e-8));
  close(compute(returnsToGo({ gamma: 0.5 }), { lengths, batch }).advantages, white);
});

Deno.test("leaveOneOut() compares with the mean of the others, and is exactly 0 among equals", () => {
  const data = { lengths: [1, 1, 1, 1, 1, 1], group: 3, batch: { rewards: [1, 2, 6, 0.1, 0.1, 0.1] } };
  const { advantages } = compute(leaveOneOut(), data);
  close(advantages, [1 - 4, 2 - 3.5, 6 - 1.5, 0, 0, 0], 1e-12);
});

Deno.test("baselineAdvantages() subtracts the baseline", () => {
  const data = four({ rewards: [1, 2, 3, 4], baseline: [1, 1, 5, 0] });
  close(compute(baselineAdvantages(), data).advantages, [0, 1, -2, 4]);
});

Deno.test("runningRewards() has the moments of all rewards so far after every step", () => {
  const steps = [[1, 2, 4, 4], [-3, 0, 7, 2], [5, 5, 5, 5]], seen: number[] = [];
  for (const centre of [false, true]) {
    seen.length = 0;
    let state: Record<string, number> = { rewardCount: 0, rewardMean: 0, rewardSquares: 0 };
    for (const rewards of steps) {
      seen.push(...rewards);
      const made = compute(runningRewards({ centre, limit: 1.5 }), { ...four({ rewards }), state });
      const std = Math.sqrt(deviation(seen) ** 2 + 1e-8), shift = centre ? mean(seen) : 0;
      close(made.scaledRewards, rewards.map((r) => Math.min(1.5, Math.max(-1.5, (r - shift) / std))));
      state = Object.fromEntries(Object.keys(state).map((name) => [name, made[`state.${name}`]![0]!]));
    }
    close([state.rewardCount!, state.rewardMean!], [12, mean(seen)]);
  }
});

Deno.test("valueNorm() undoes on values what it does to returns", () => {
  const { restore, normalize } = valueNorm({ decay: 0.9 }), lengths = [2, 2];
  const zero = { valueMean: 0, valueSquare: 0, valueWeight: 0 };
  // Before the first step the critic's scale is that of rewards.
  const fresh = { lengths, batch: { scaledValues: [1, 2, 3, 4] }, state: zero };
  close(compute(restore, fresh).values, [1, 2, 3, 4]);
  const returns = [10, 12, 14, 20], made = compute(normalize, { lengths, batch: { returns }, state: zero });
  // Debiased, the moments of the first step are its own.
  close(made.scaledReturns, returns.map((r) => (r - mean(returns)) / deviation(returns, 0)), 1e-9);
  const state = Object.fromEntries(
    Object.keys(zero).map((name) => [name, made[`state.${name}`]![0]!]),
  ) as typeof zero;
  const again = { lengths, batch: { scaledValues: made.scaledReturns! }, state };
  close(compute(restore, again).values, returns, 1e-9);
  const second = compute(normalize, { lengths, batch: { returns: [0, 0, 0, 0] }, state });
  close(second["state.valueWeight"], [0.9 * 0.1 + 0.1]);
  close(second["state.valueMean"], [0.9 * 0.1 * mean(returns)]);
});

Deno.test("ppoClip() tells when the mean ratio is exceeded", () => {
  const at = (maxRatio: number) =>
    evaluate(ppoClip({ epsilon: 0.2, maxRatio }).expr, {
      lengths: [2],
      model: { logprobs: [Math.log(2), Math.log(3)], entropy: [0, 0] },
      batch: { logprobs: [0, 0], advantages: [1, 1] },
    });
  close(at(2.4).ratio, [2.5]);
  close(at(2.4).ratioExceeded, [1]);
  close(at(2.6).ratioExceeded, [0]);
  assert.throws(() => ppoClip({ epsilon: 0.2, maxRatio: 1 }), /maxRatio is 1, it must be above 1/);
});
