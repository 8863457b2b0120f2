/** Rewards of responses and actions: penalties, limits, scales. */
import { type PerSequence, perSequence, type PerToken, perToken, type TokenIds } from "../../ir/field.ts";
import { compute } from "../compute.ts";
import type { None } from "../fields.ts";
import type { CallFlow } from "../flow.ts";
import { positive, refuse } from "../options.ts";
import { at, callSite } from "../site.ts";
import { type State, state } from "../state.ts";
import type { Tensor } from "../tensor.ts";

type KlReads = { readonly tokens: TokenIds; readonly logprobs: PerToken; readonly refLogprobs: PerToken };

export type KlEstimator = "k1" | "k2" | "k3";

/** Estimates of KL(policy ‖ reference) per action from samples of the policy (Schulman 2020, "Approximating KL divergence"). */
const ESTIMATE: Readonly<Record<KlEstimator, (logRatio: Tensor<"token">) => Tensor<"token">>> = {
  k1: (x) => x,
  k2: (x) => x.square().mul(0.5),
  k3: (x) => x.neg().exp().sub(1).add(x),
};

/**
 * A reward for every action: the sequence's reward on the last one, minus β times an estimate of the KL divergence from the
 * reference on each (Ziegler et al. 2019, eq. 2). Reads `rewards`, `logprobs`, `refLogprobs`; writes `tokenRewards`.
 *
 * @param options `beta`: a number, or a state such as {@link adaptiveKl} moves; `kl`: the estimator, k1 by default
 * @throws RangeError for a negative `beta` or an unknown estimator
 * @example
 * ```ts
 * import { shapedRewards } from "@baton/baton";
 *
 * const shaped = shapedRewards({ beta: 0.05 });
 * ```
 */
export function shapedRewards(
  options: { readonly beta: number | State; readonly kl?: KlEstimator },
): CallFlow<KlReads & { readonly rewards: PerSequence }, { readonly tokenRewards: PerToken }> {
  const { beta, kl = "k1" } = options,
    estimate = ESTIMATE[kl],
    moving = typeof beta === "number" ? null : beta;
  const states: readonly State[] = moving ? [moving] : [];
  refuse(`make shapedRewards${at(callSite())}`, [
    typeof beta === "number" && !(beta >= 0 && beta < Infinity) && `beta is ${beta}, it must be 0 or more`,
    !estimate && `kl is "${kl}", it must be one of ${Object.keys(ESTIMATE).join(", ")}`,
  ]);
  const reads = { rewards: perSequence, logprobs: perToken, refLogprobs: perToken };
  return compute("shapedRewards", reads, (batch, now) => {
    const divergence = estimate(batch.logprobs.sub(batch.refLogprobs));
    const penalty = moving ? divergence.mul(now[moving.name]!) : divergence.mul(beta as number);
    return { tokenRewards: batch.rewards.atEnd().sub(penalty) };
  }, { states });
}

/**
 * Moves a KL coefficient so that the divergence from the reference, summed over each sequence, stays near `target` nats:
 * β ← β·(1 + rate · clip(KL ÷ target − 1, −0.2, 0.2)) (Ziegler et al. 2019, §2.2). Reads `logprobs` and `refLogprobs`.
 *
 * @returns the state, for `shapedRewards({ beta })`, and the call that moves it once a step
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adaptiveKl, shapedRewards } from "@baton/baton";
 *
 * const { beta, move } = adaptiveKl({ init: 0.1, target: 6 });
 * const shaped = shapedRewards({ beta }).then(move);
 * ```
 */
export function adaptiveKl(
  options: { readonly init: number; readonly target: number; readonly rate?: number },
): { readonly beta: State<"klCoefficient">; readonly move: CallFlow<KlReads, None> } {
  const { init, target, rate = 0.1 } = options;
  refuse(`make adaptiveKl${at(callSite())}`, [
    positive("init", init),
    positive("target", target),
    positive("rate", rate),
  ]);
  const beta = state("klCoefficient", init);
  const move = compute("adaptiveKl", { logprobs: perToken, refLogprobs: perToken }, (batch, now) => {
    const divergence = batch.logprobs.sub(batch.refLogprobs).sumPerSequence().mean();
    const error = divergence.div(target).sub(1).clamp(-0.2, 0.2);
    return { klCoefficient: now.klCoefficient.mul(error.mul(rate).add(1)) };
  }, { states: [beta] });
  return { beta, move };
}

/**
 * Scales rewards, then cuts them to ±`limit` (Ouyang et al. 2022 and their followers clip before the KL penalty is
 * subtracted). Reads `rewards`, writes `clippedRewards`; feed them on with `shapedRewards({ beta }).from({ rewards:
 * "clippedRewards" })`.
 *
 * @param options (rewards − `bias`) · `scale`; 0 and 1 where not given
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { clippedRewards, shapedRewards } from "@baton/baton";
 *
 * const shaped = clippedRewards({ limit: 5, scale: 0.5 })
 *   .then(shapedRewards({ beta: 0.05 }).from({ rewards: "clippedRewards" }));
 * ```
 */
export function clippedRewards(
  options: { readonly limit: number; readonly scale?: number; readonly bias?: number },
): CallFlow<{ readonly rewards: PerSequence }, { readonly clippedRewards: PerSequence }> {
  const { limit, scale = 1, bias = 0 } = options;
  refuse(`make clippedRewards${at(callSite())}`, [
    positive("limit", limit),
    positive("scale", scale),
    !Number.isFinite(bias) && `bias is ${bias}, it must be a number`,
  ]);
  return compute("clippedRewards", { rewards: perSequence }, ({ rewards }) => ({
    clippedRewards: rewards.sub(bias).mul(scale).clamp(-limit, limit),
  }));
}

/**
 * Soft punishment of responses that come near the length limit (Yu et al. 2025, "DAPO", eq. 13): 0 up to `maxLength` −
 * `buffer` actions, falling to −`penalty` at `maxLength`, added to the reward. Reads `rewards` and `length`, writes
 * `lengthRewards`.
 *
 * @param options `penalty`: 1 where not given
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { groupAdvantages, overlongShaping } from "@baton/baton";
 *
 * const advantages = overlongShaping({ maxLength: 1024, buffer: 256 })
 *   .then(groupAdvantages().from({ rewards: "lengthRewards" }));
 * ```
 */
export function overlongShaping(
  options: { readonly maxLength: number; readonly buffer: number; readonly penalty?: number },
): CallFlow<
  { readonly rewards: PerSequence; readonly length: PerSequence },
  { readonly lengthRewards: PerSequence }
> {
  const { maxLength, buffer, penalty = 1 } = options;
  refuse(`make overlongShaping${at(callSite())}`, [
    positive("maxLength", maxLength, "whole"),
    !(buffer > 0 && buffer <= maxLength) && `buffer is ${buffer}, it must be above 0 and at most maxLength`,
    positive("penalty", penalty),
  ]);
  const reads = { rewards: perSequence, length: perSequence };
  return compute("overlongShaping", reads, ({ rewards, length }) => ({
    lengthRewards: rewards.add(length.rsub(maxLength - buffer).div(buffer).clamp(-1, 0).mul(penalty)),
  }));
}
