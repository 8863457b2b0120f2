/** Running moments kept as states: rewards and values on a scale that does not drift. */
import { type PerSequence, perSequence, type PerToken, perToken, type TokenIds } from "../../ir/field.ts";
import { compute } from "../compute.ts";
import type { CallFlow } from "../flow.ts";
import { positive, refuse } from "../options.ts";
import { at, callSite } from "../site.ts";
import { state } from "../state.ts";
import type { Tensor } from "../tensor.ts";

type Scalar = Tensor<"batch">;

/**
 * Divides rewards by their running standard deviation over the whole run, this step included (Chan et al. 1983, eq. 2.1:
 * moments of two parts combine), and cuts them to ±`limit` where given. Reads `rewards`, writes `scaledRewards`, keeps the
 * states `rewardCount`, `rewardMean` and `rewardSquares`.
 *
 * @param options `centre`: the running mean is subtracted, too
 * @throws RangeError for a `limit` that is not above 0
 * @example
 * ```ts
 * import { runningRewards, shapedRewards } from "@baton/baton";
 *
 * const shaped = runningRewards({ limit: 10 }).then(shapedRewards({ beta: 0.05 }).from({ rewards: "scaledRewards" }));
 * ```
 */
export function runningRewards(
  options: { readonly limit?: number; readonly centre?: boolean } = {},
): CallFlow<{ readonly rewards: PerSequence }, { readonly scaledRewards: PerSequence }> {
  const { limit, centre = false } = options;
  refuse(`make runningRewards${at(callSite())}`, [limit !== undefined && positive("limit", limit)]);
  const states = [state("rewardCount", 0), state("rewardMean", 0), state("rewardSquares", 0)] as const;
  return compute("runningRewards", { rewards: perSequence }, ({ rewards }, now) => {
    const n = rewards.mul(0).add(1).sum(), mean = rewards.mean(), squares = rewards.sub(mean).square().sum();
    const rewardCount = now.rewardCount.add(n), apart = mean.sub(now.rewardMean);
    const rewardMean = now.rewardMean.add(apart.mul(n).div(rewardCount));
    const rewardSquares = now.rewardSquares.add(squares)
      .add(apart.square().mul(now.rewardCount).mul(n).div(rewardCount));
    const std = rewardSquares.div(rewardCount.sub(1).max(1)).add(1e-8).sqrt();
    const scaled = (centre ? rewards.sub(rewardMean) : rewards).div(std);
    return {
      scaledRewards: limit === undefined ? scaled : scaled.clamp(-limit, limit),
      rewardCount,
      rewardMean,
      rewardSquares,
    };
  }, { states });
}

type Scaled = { readonly tokens: TokenIds; readonly scaledValues: PerToken };
type Returned = { readonly tokens: TokenIds; readonly returns: PerToken };

/**
 * Value normalisation (van Hasselt et al. 2016, "PopArt", without the output correction; Yu et al. 2022, "MAPPO", §5.1): the
 * critic predicts returns with mean 0 and variance 1 under running moments of the returns, decayed by `decay` per step and
 * debiased as in Adam.
 *
 * @param options `decay`: weight of the moments so far, 0.99 where not given
 * @returns `restore`: reads `scaledValues` (what the critic gives), writes `values` on the scale of rewards; `normalize`:
 *   reads `returns`, writes `scaledReturns`, moves the states `valueMean`, `valueSquare` and `valueWeight`
 * @throws RangeError for a `decay` that is not above 0 and below 1
 * @example
 * ```ts
 * import { adamw, gae, models, valueClip, valueModel, valueNorm } from "@baton/baton";
 *
 * const { critic } = models({ critic: valueModel("models/sft", adamw({ lr: 1e-5 })) });
 * const { restore, normalize } = valueNorm();
 * const flow = critic.infer().as("scaledValues").then(restore)
 *   .then(gae({ gamma: 1, lambda: 0.95 })).then(normalize)
 *   .then(critic.train(valueClip({ epsilon: 0.2 })).from({ values: "scaledValues", returns: "scaledReturns" }));
 * ```
 */
export function valueNorm(options: { readonly decay?: number } = {}): {
  readonly restore: CallFlow<Scaled, { readonly values: PerToken }>;
  readonly normalize: CallFlow<Returned, { readonly scaledReturns: PerToken }>;
} {
  const { decay = 0.99 } = options;
  refuse(`make valueNorm${at(callSite())}`, [
    !(decay > 0 && decay < 1) && `decay is ${decay}, it must be above 0 and below 1`,
  ]);
  const states = [state("valueMean", 0), state("valueSquare", 0), state("valueWeight", 0)] as const;
  /** Before the first step there are no moments: mean 0 and deviation 1. */
  const moments = (mean: Scalar, square: Scalar, weight: Scalar) => {
    const m = mean.div(weight.max(1e-8)), variance = square.div(weight.max(1e-8)).sub(m.square());
    const one = weight.mul(0).add(1);
    return { mean: m, std: weight.lt(1e-8).where(one, variance.max(1e-4).sqrt()) };
  };
  const restore = compute("restoreValues", { scaledValues: perToken }, ({ scaledValues }, now) => {
    const { mean, std } = moments(now.valueMean, now.valueSquare, now.valueWeight);
    return { values: scaledValues.mul(std).add(mean) };
  }, { states });
  const normalize = compute("normalizeReturns", { returns: perToken }, ({ returns }, now) => {
    const keep = (old: Scalar, seen: Scalar) => old.mul(decay).add(seen.mul(1 - decay));
    const valueMean = keep(now.valueMean, returns.mean());
    const valueSquare = keep(now.valueSquare, returns.square().mean());
    const valueWeight = now.valueWeight.mul(decay).add(1 - decay);
    const { mean, std } = moments(valueMean, valueSquare, valueWeight);
    return { scaledReturns: returns.sub(mean).div(std), valueMean, valueSquare, valueWeight };
  }, { states });
  return { restore, normalize };
}
