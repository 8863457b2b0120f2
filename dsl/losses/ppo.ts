/** The losses of PPO: clipped policy objective and value error. */
import { type PerToken, perToken } from "../../ir/field.ts";
import { type Loss, policyLoss, valueLoss } from "../loss.ts";
import { positive, refuse } from "../options.ts";
import { at, callSite } from "../site.ts";
import { clipped, clipViolations, k3 } from "./parts.ts";

/**
 * The clipped policy objective of PPO (Schulman et al. 2017, eq. 7), mean over actions.
 * Reads `logprobs` (of the sampling policy) and `advantages`. Metrics: `clipFraction` (share of actions whose gradient is
 * cut), `approxKl` (k3 estimate of KL(sampling policy ‖ now), nats per action), `entropy` (nats per action), and where asked
 * for `ratio` (mean), `klExceeded` and `ratioExceeded` (1 or 0, for `stopWhen`).
 *
 * @param options `epsilon`: the ratio stays in [1 − ε, 1 + ε], above in [1 − ε, 1 + epsilonHigh] when given; `dualClip`:
 *   bound c > 1 of the loss for negative advantages (Ye et al. 2020, eq. 5); `entropy`: coefficient of the entropy bonus;
 *   `targetKl`: `klExceeded` is 1 once `approxKl` reaches it; `maxRatio`: `ratioExceeded` is 1 once the mean ratio reaches
 *   it
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
  readonly maxRatio?: number;
}): Loss<"lm", { readonly logprobs: PerToken; readonly advantages: PerToken }, keyof PpoMetrics<unknown>> {
  const { epsilon, epsilonHigh = epsilon, dualClip, entropy, targetKl, maxRatio } = options;
  refuse(`make ppoClip${at(callSite())}`, [
    ...clipViolations(epsilon, epsilonHigh),
    dualClip !== undefined && !(dualClip > 1 && dualClip < Infinity) &&
    `dualClip is ${dualClip}, it must be above 1`,
    entropy !== undefined && !Number.isFinite(entropy) && `entropy is ${entropy}, it must be a number`,
    targetKl !== undefined && positive("targetKl", targetKl),
    maxRatio !== undefined && !(maxRatio > 1 && maxRatio < Infinity) &&
    `maxRatio is ${maxRatio}, it must be above 1`,
  ]);
  return policyLoss({ logprobs: perToken, advantages: perToken }, (now, batch) => {
    const { advantages } = batch;
    const logRatio = now.logprobs.sub(batch.logprobs), ratio = logRatio.exp();
    const { gain, cut } = clipped(ratio, advantages, epsilon, epsilonHigh);
    const bounded = dualClip === undefined
      ? gain
      : advantages.lt(0).where(gain.max(advantages.mul(dualClip)), gain);
    const surrogate = bounded.mean().neg(), approxKl = k3(logRatio.detach()).mean();
    const meanRatio = ratio.detach().mean();
    const metrics = {
      clipFraction: cut.mean(),
      approxKl,
      entropy: now.entropy.mean(),
      ...(targetKl !== undefined && { klExceeded: approxKl.ge(targetKl) }),
      ...(maxRatio !== undefined && { ratio: meanRatio, ratioExceeded: meanRatio.ge(maxRatio) }),
    } as PpoMetrics<typeof approxKl>;
    return {
      loss: entropy === undefined ? surrogate : surrogate.sub(now.entropy.mean().mul(entropy)),
      metrics,
    };
  });
}
/** `klExceeded` is there when `targetKl` asks for it, `ratio` and `ratioExceeded` when `maxRatio` does. */
type PpoMetrics<T> = {
  readonly clipFraction: T;
  readonly approxKl: T;
  readonly ratio: T;
  readonly entropy: T;
  readonly klExceeded: T;
  readonly ratioExceeded: T;
};

/**
 * Squared error of the values to the returns, each prediction kept within ε of the recorded one (the value loss of PPO's
 * reference implementation): half the mean over actions of the worse of both errors. Reads `values` and `returns`. Metrics:
 * `clipFraction` and `explainedVariance` (1 − Var(returns − recorded values) ÷ Var(returns)).
 *
 * @param options without `epsilon` nothing is clipped; `huber`: errors beyond this count linearly instead of squared
 *   (Huber 1964), so that one wild return cannot rule an update
 * @throws RangeError for an `epsilon` or `huber` that is not above 0
 * @example
 * ```ts
 * import { valueClip } from "@baton/baton";
 *
 * const loss = valueClip({ epsilon: 0.2 });
 * ```
 */
export function valueClip(
  options: { readonly epsilon?: number; readonly huber?: number } = {},
): Loss<
  "value",
  { readonly values: PerToken; readonly returns: PerToken },
  "clipFraction" | "explainedVariance"
> {
  const { epsilon, huber } = options;
  refuse(`make valueClip${at(callSite())}`, [
    epsilon !== undefined && positive("epsilon", epsilon),
    huber !== undefined && positive("huber", huber),
  ]);
  return valueLoss({ values: perToken, returns: perToken }, (now, batch) => {
    const { values, returns } = batch;
    const error = (predicted: typeof values) => {
      const x = predicted.sub(returns);
      return huber === undefined
        ? x.square()
        : x.abs().lt(huber).where(x.square(), x.abs().mul(2 * huber).sub(huber ** 2));
    };
    const plain = error(now.values);
    const clipped = epsilon === undefined
      ? plain
      : error(values.add(now.values.sub(values).clamp(-epsilon, epsilon)));
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
