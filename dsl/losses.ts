/** Losses of the field, written with `policyLoss`, `valueLoss` and `rewardLoss` like any script's own. */
import { type PerToken, perToken } from "../ir/field.ts";
import { type Loss, policyLoss, rewardLoss, valueLoss } from "./loss.ts";
import type { None } from "./fields.ts";
import { positive, refuse } from "./options.ts";
import { at, callSite } from "./site.ts";

/** The k3 estimate of KL(q ‖ p) from samples of q, per action, of log p − log q (Schulman 2020, "Approximating KL divergence"). */
const k3 = <T extends { exp(): T; sub(x: T | number): T }>(logRatio: T): T =>
  logRatio.exp().sub(1).sub(logRatio);

/**
 * The clipped policy objective of PPO (Schulman et al. 2017, eq. 7), mean over actions.
 * Reads `logprobs` (of the sampling policy) and `advantages`. Metrics: `clipFraction` (share of actions whose gradient is cut),
 * `approxKl` (k3 estimate of KL(sampling policy ‖ now), nats per action), `entropy` (nats per action), and `klExceeded` (1 or 0,
 * for `stopWhen`) where asked for.
 *
 * @param options `epsilon`: the ratio stays in [1 − ε, 1 + ε], above in [1 − ε, 1 + epsilonHigh] when given; `dualClip`: bound c > 1
 *   of the loss for negative advantages (Ye et al. 2020, eq. 5); `entropy`: coefficient of the entropy bonus; `targetKl`:
 *   `klExceeded` is 1 once `approxKl` reaches it
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw, models, policyModel, ppoClip } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/base", adamw({ lr: 1e-6 })) });
 * const update = actor.train(ppoClip({ epsilon: 0.2, targetKl: 0.05 }), { minibatches: 4, stopWhen: "klExceeded" });
 * ```
 */
export function ppoClip(options: {
  readonly epsilon: number;
  readonly epsilonHigh?: number;
  readonly dualClip?: number;
  readonly entropy?: number;
  readonly targetKl?: number;
}): Loss<"lm", { readonly logprobs: PerToken; readonly advantages: PerToken }, keyof PpoMetrics<unknown>> {
  const { epsilon, epsilonHigh = epsilon, dualClip, entropy, targetKl } = options;
  refuse(`make ppoClip${at(callSite())}`, [
    !(epsilon > 0 && epsilon < 1) && `epsilon is ${epsilon}, it must be above 0 and below 1`,
    positive("epsilonHigh", epsilonHigh),
    dualClip !== undefined && !(dualClip > 1 && dualClip < Infinity) &&
    `dualClip is ${dualClip}, it must be above 1`,
    entropy !== undefined && !Number.isFinite(entropy) && `entropy is ${entropy}, it must be a number`,
    targetKl !== undefined && positive("targetKl", targetKl),
  ]);
  return policyLoss({ logprobs: perToken, advantages: perToken }, (now, batch) => {
    const { advantages } = batch;
    const logRatio = now.logprobs.sub(batch.logprobs), ratio = logRatio.exp();
    const plain = ratio.mul(advantages), cut = ratio.clamp(1 - epsilon, 1 + epsilonHigh).mul(advantages);
    const clipped = plain.min(cut);
    const gain = dualClip === undefined
      ? clipped
      : advantages.lt(0).where(clipped.max(advantages.mul(dualClip)), clipped);
    const surrogate = gain.mean().neg(), approxKl = k3(logRatio.detach()).mean();
    const metrics = {
      clipFraction: cut.lt(plain).mean(),
      approxKl,
      entropy: now.entropy.mean(),
      ...(targetKl !== undefined && { klExceeded: approxKl.ge(targetKl) }),
    } as PpoMetrics<typeof approxKl>;
    return {
      loss: entropy === undefined ? surrogate : surrogate.sub(now.entropy.mean().mul(entropy)),
      metrics,
    };
  });
}
/** `klExceeded` is there when `targetKl` asks for it. */
type PpoMetrics<T> = {
  readonly clipFraction: T;
  readonly approxKl: T;
  readonly entropy: T;
  readonly klExceeded: T;
};

/**
 * Squared error of the values to the returns, each prediction kept within ε of the recorded one (the value loss of PPO's reference
 * implementation): half the mean over actions of the worse of both errors. Reads `values` and `returns`. Metrics: `clipFraction` and
 * `explainedVariance` (1 − Var(returns − recorded values) ÷ Var(returns)).
 *
 * @param options without `epsilon` nothing is clipped
 * @throws RangeError for an `epsilon` that is not above 0
 * @example
 * ```ts
 * import { valueClip } from "@baton/baton";
 *
 * const loss = valueClip({ epsilon: 0.2 });
 * ```
 */
export function valueClip(
  options: { readonly epsilon?: number } = {},
): Loss<
  "value",
  { readonly values: PerToken; readonly returns: PerToken },
  "clipFraction" | "explainedVariance"
> {
  const { epsilon } = options;
  refuse(`make valueClip${at(callSite())}`, [epsilon !== undefined && positive("epsilon", epsilon)]);
  return valueLoss({ values: perToken, returns: perToken }, (now, batch) => {
    const { values, returns } = batch, plain = now.values.sub(returns).square();
    const clipped = epsilon === undefined
      ? plain
      : values.add(now.values.sub(values).clamp(-epsilon, epsilon)).sub(returns).square();
    const residual = returns.sub(values);
    const variance = (x: typeof residual) => x.square().mean().sub(x.mean().square());
    return {
      loss: plain.max(clipped).mean().mul(0.5),
      metrics: {
        clipFraction: plain.lt(clipped).mean(),
        explainedVariance: variance(residual).div(variance(returns).max(1e-8)).rsub(1),
      },
    };
  });
}

/**
 * Supervised fine-tuning: the mean over all actions of −log p.
 *
 * @example
 * ```ts
 * import { adamw, models, policyModel, sft } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/base", adamw({ lr: 1e-5 })) });
 * const update = actor.train(sft());
 * ```
 */
export const sft = (): Loss<"lm", None, never> => policyLoss({}, (now) => now.logprobs.mean().neg());

/**
 * Direct preference optimisation (Rafailov et al. 2023, eq. 7). Reads `refLogprobs`. Metrics: `accuracy` (share of pairs whose
 * chosen sequence has the higher implicit reward) and `margin` (mean difference of implicit rewards).
 *
 * @throws RangeError for a `beta` that is not above 0
 * @example
 * ```ts
 * import { adamw, dpo, models, policyModel } from "@baton/baton";
 *
 * const { actor, ref } = models({ actor: policyModel("models/sft", adamw({ lr: 5e-7 })), ref: policyModel("models/sft") });
 * const update = ref.infer().as("refLogprobs").then(actor.train(dpo({ beta: 0.1 })));
 * ```
 */
export function dpo(
  { beta }: { readonly beta: number },
): Loss<"lm", { readonly refLogprobs: PerToken }, "accuracy" | "margin"> {
  refuse(`make dpo${at(callSite())}`, [positive("beta", beta)]);
  return policyLoss({ refLogprobs: perToken }, (now, batch) => {
    const { chosen, rejected } = now.logprobs.sub(batch.refLogprobs).sumPerSequence().pairs();
    const margin = chosen.sub(rejected).mul(beta);
    return {
      loss: margin.logSigmoid().mean().neg(),
      metrics: { accuracy: rejected.lt(chosen).mean(), margin: margin.mean() },
    };
  });
}

/**
 * The Bradley-Terry loss of a reward model on preference pairs: −log σ(chosen − rejected), mean over pairs (Ouyang et al. 2022,
 * eq. 1). Metrics: `accuracy` and `margin` (mean of chosen − rejected).
 *
 * @example
 * ```ts
 * import { adamw, bradleyTerry, models, preferences, rewardModel, workflow } from "@baton/baton";
 *
 * const { reward } = models({ reward: rewardModel("models/sft", adamw({ lr: 1e-5 })) });
 * export default workflow({
 *   name: "reward",
 *   data: preferences("data/preferences.jsonl", { batch: 64 }),
 *   flow: reward.train(bradleyTerry()),
 * });
 * ```
 */
export const bradleyTerry = (): Loss<"reward", None, "accuracy" | "margin"> =>
  rewardLoss({}, (now) => {
    const { chosen, rejected } = now.rewards.pairs(), margin = chosen.sub(rejected);
    return {
      loss: margin.logSigmoid().mean().neg(),
      metrics: { accuracy: rejected.lt(chosen).mean(), margin: margin.mean() },
    };
  });
