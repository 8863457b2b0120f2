/** From rewards to advantages: traced arithmetic written with `compute` like any script's own. */
import { type PerSequence, perSequence, type PerToken, perToken, type TokenIds } from "../ir/field.ts";
import { compute } from "./compute.ts";
import type { None } from "./fields.ts";
import type { CallFlow } from "./flow.ts";
import { between, positive, refuse } from "./options.ts";
import { at, callSite } from "./site.ts";
import { type State, state } from "./state.ts";
import type { Tensor } from "./tensor.ts";

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

/** (x − mean) ÷ √(variance + 1e-8) over every action of the step, with the unbiased variance. */
function whitened(x: Tensor<"token">): Tensor<"token"> {
  const centred = x.sub(x.mean()), sum = centred.square().sum();
  const count = x.ge(x).sum(); // every value is at least itself
  return centred.div(sum.div(count.sub(1).max(1)).add(1e-8).sqrt());
}

/**
 * Generalised advantage estimation (Schulman et al. 2016, eq. 16). Reads `tokenRewards` and `values`; writes `advantages` and
 * `returns` (advantages before whitening + values).
 *
 * @param options `gamma`, `lambda`; `whiten`: advantages with mean 0 and variance 1 over the step; `bootstrapTruncated`: a response that
 *   was cut is worth `finalValues` after its last action instead of 0 (then it reads `finalValues`, from `infer({ final: true })`, and
 *   `finished`)
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { gae } from "@baton/baton";
 *
 * const estimates = gae({ gamma: 1, lambda: 0.95, whiten: true });
 * ```
 */
export function gae(
  options: GaeOptions & { readonly bootstrapTruncated?: false },
): CallFlow<GaeReads, Estimates>;
export function gae(
  options: GaeOptions & { readonly bootstrapTruncated: true },
): CallFlow<BootstrapReads, Estimates>;
export function gae(
  options: GaeOptions & { readonly bootstrapTruncated?: boolean },
): CallFlow<GaeReads, Estimates> | CallFlow<BootstrapReads, Estimates> {
  const { gamma, lambda, whiten = false } = options, discount = { gamma, lambda };
  refuse(`make gae${at(callSite())}`, [between("gamma", gamma, 0, 1), between("lambda", lambda, 0, 1)]);
  const results = (estimates: Tensor<"token">, values: Tensor<"token">) => ({
    advantages: whiten ? whitened(estimates) : estimates,
    returns: estimates.add(values),
  });
  const reads = { tokenRewards: perToken, values: perToken };
  if (!options.bootstrapTruncated) {
    return compute(
      "gae",
      reads,
      (batch) => results(batch.tokenRewards.gae(batch.values, discount), batch.values),
    );
  }
  return compute("gae", { ...reads, finalValues: perSequence, finished: perSequence }, (batch) => {
    const final = batch.finished.where(0, batch.finalValues);
    return results(batch.tokenRewards.gae(batch.values, { ...discount, final }), batch.values);
  });
}

export interface GaeOptions {
  /** Discount per action. */
  readonly gamma: number;
  /** Weight of longer estimates: 0 is one-step, 1 is the whole return. */
  readonly lambda: number;
  readonly whiten?: boolean;
}
type GaeReads = { readonly tokens: TokenIds; readonly tokenRewards: PerToken; readonly values: PerToken };
type BootstrapReads = GaeReads & { readonly finalValues: PerSequence; readonly finished: PerSequence };
type Estimates = { readonly advantages: PerToken; readonly returns: PerToken };

/**
 * Whitens a per-token field over all actions of the step: mean 0, unbiased variance 1. Reads `advantages`, writes
 * `whitenedAdvantages`; `.from()` and `.as()` choose other fields.
 *
 * @example
 * ```ts
 * import { ppoClip, whiten } from "@baton/baton";
 *
 * const rewards = whiten().from({ advantages: "tokenRewards" }).as("whitenedRewards");
 * ```
 */
export const whiten = (): CallFlow<
  { readonly tokens: TokenIds; readonly advantages: PerToken },
  { readonly whitenedAdvantages: PerToken }
> =>
  compute(
    "whiten",
    { advantages: perToken },
    ({ advantages }) => ({ whitenedAdvantages: whitened(advantages) }),
  );

/**
 * Advantages relative to the other samples of a prompt: (reward − group mean) ÷ (group standard deviation + eps), as in GRPO (Shao et
 * al. 2024, §4.1.2). Reads `rewards`, writes `advantages`, one per sequence: `spread()` them in the loss.
 *
 * @param options `scale: false` leaves out the division (Liu et al. 2025, "Dr. GRPO"); `eps` is 1e-4 by default
 * @throws RangeError for a negative `eps`
 * @example
 * ```ts
 * import { groupAdvantages } from "@baton/baton";
 *
 * const relative = groupAdvantages({ scale: false });
 * ```
 */
export function groupAdvantages(
  options: { readonly scale?: boolean; readonly eps?: number } = {},
): CallFlow<{ readonly rewards: PerSequence }, { readonly advantages: PerSequence }> {
  const { scale = true, eps = 1e-4 } = options;
  refuse(`make groupAdvantages${at(callSite())}`, [
    !(eps >= 0 && eps < Infinity) && `eps is ${eps}, it must be 0 or more`,
  ]);
  return compute("groupAdvantages", { rewards: perSequence }, ({ rewards }) => {
    const centred = rewards.sub(rewards.groupMean());
    return { advantages: scale ? centred.div(rewards.groupStd({ eps })) : centred };
  });
}
