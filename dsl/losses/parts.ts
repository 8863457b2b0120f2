/** What several losses of the field have in common. */
import type { Tensor } from "../tensor.ts";

type Token = Tensor<"token">;

/** The k3 estimate of KL(q ‖ p) from samples of q, per action, of log p − log q (Schulman 2020, "Approximating KL divergence"). */
export const k3 = (logRatio: Token): Token => logRatio.exp().sub(1).sub(logRatio);

/** The worse of r·A and clip(r, 1 − low, 1 + high)·A, and 1 where that cuts the gradient off (Schulman et al. 2017, eq. 7). */
export function clipped<G extends "token" | "sequence">(
  ratio: Tensor<G>,
  advantages: Tensor<G>,
  low: number,
  high: number,
): { readonly gain: Tensor<G>; readonly cut: Tensor<G> } {
  const x = ratio as Tensor<"token">, a = advantages as Tensor<"token">;
  const plain = x.mul(a), bounded = x.clamp(1 - low, 1 + high).mul(a);
  return { gain: plain.min(bounded) as Tensor<G>, cut: bounded.lt(plain) as Tensor<G> };
}

/**
 * How the values of all actions become one number. `tokens`: every action counts the same, so a long response counts more.
 * `sequences`: mean over the actions of each response, then over responses.
 */
export type Average = "tokens" | "sequences";
export const AVERAGES: readonly Average[] = ["tokens", "sequences"];
export const average = (x: Token, kind: Average): Tensor<"batch"> =>
  kind === "tokens" ? x.mean() : x.meanPerSequence().mean();

/** Violations of the clipping range that the policy losses share. */
export const clipViolations = (epsilon: number, epsilonHigh: number): (string | false)[] => [
  !(epsilon > 0 && epsilon < 1) && `epsilon is ${epsilon}, it must be above 0 and below 1`,
  !(epsilonHigh > 0 && epsilonHigh < Infinity) &&
  `epsilonHigh is ${epsilonHigh}, it must be a number above 0`,
];
