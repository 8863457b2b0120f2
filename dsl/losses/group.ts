/** Losses of the GRPO family: no critic, advantages of whole responses relative to the others of their prompt. */
import { type PerSequence, perSequence, type PerToken, perToken } from "../../ir/field.ts";
import { type Loss, policyLoss } from "../loss.ts";
import { oneOf, positive, refuse } from "../options.ts";
import { at, callSite } from "../site.ts";
import type { Tensor } from "../tensor.ts";
import { type Average, average, AVERAGES, clipped, clipViolations, k3 } from "./parts.ts";

type Token = Tensor<"token">;
type Sampled = { readonly logprobs: PerToken; readonly advantages: PerSequence };
type Compared = Sampled & { readonly refLogprobs: PerToken };
type Metrics = "clipFraction" | "approxKl" | "entropy";
type GroupLoss<In extends Sampled> = Loss<"lm", In, Metrics>;

/** The range that the ratio of probabilities, now ÷ when sampling, may leave without effect. */
interface Clip {
  readonly epsilon: number;
  /** Upper end of the range, 1 + this; `epsilon` where not given. */
  readonly epsilonHigh?: number;
}
interface Averaged {
  readonly average?: Average;
}
/** Weight of the penalty: k3 estimate of KL(policy ‖ reference) on each action; the loss then reads `refLogprobs`. */
interface Penalty {
  readonly beta: number;
}
interface NoPenalty {
  readonly beta?: undefined;
}
interface MaybePenalty {
  readonly beta?: number | undefined;
}

/** What an algorithm is asked about one mini-batch. */
interface Now {
  readonly logprobs: Token;
  /** log of now ÷ when sampling. */
  readonly logRatio: Token;
  readonly advantages: Token;
}
/** What is to be maximised per action, and 1 where the gradient is cut off. */
interface Gain {
  readonly gain: Token;
  readonly cut: Token;
}

/** −gain + β·KL of each action, folded to one number. */
function groupLoss(
  beta: number | undefined,
  gainOf: (now: Now) => Gain,
  fold: (perAction: Token) => Tensor<"batch">,
): Loss<"lm", Sampled, Metrics> {
  const reads = { logprobs: perToken, advantages: perSequence };
  const all = beta === undefined ? reads : { ...reads, refLogprobs: perToken };
  return policyLoss(all as typeof reads & { readonly refLogprobs: PerToken }, (now, batch) => {
    const logRatio = now.logprobs.sub(batch.logprobs);
    const { gain, cut } = gainOf({
      logprobs: now.logprobs,
      logRatio,
      advantages: batch.advantages.spread(),
    });
    const loss = beta === undefined
      ? gain.neg()
      : gain.neg().add(k3(batch.refLogprobs.sub(now.logprobs)).mul(beta));
    return {
      loss: fold(loss),
      metrics: {
        clipFraction: cut.mean(),
        approxKl: k3(logRatio.detach()).mean(),
        entropy: now.entropy.mean(),
      },
    };
  });
}

const penaltyViolation = (beta: number | undefined): string | false =>
  beta !== undefined && !(beta >= 0 && beta < Infinity) && `beta is ${beta}, it must be 0 or more`;

/** PPO's clipped gain with the response's advantage on each of its actions. */
const tokenGain = ({ epsilon, epsilonHigh = epsilon }: Clip) => ({ logRatio, advantages }: Now): Gain =>
  clipped(logRatio.exp(), advantages, epsilon, epsilonHigh);

/**
 * Group relative policy optimisation (Shao et al. 2024, eq. 3): PPO's clipped objective with the advantage of the whole
 * response on each action, averaged over the actions of each response and then over responses, plus β times the k3 estimate
 * of the divergence from the reference. Reads `logprobs`, `advantages` (per sequence, from {@link groupAdvantages}) and,
 * with `beta`, `refLogprobs`. Metrics: `clipFraction`, `approxKl`, `entropy`.
 *
 * @param options `average: "tokens"` counts every action of the mini-batch the same (the token mean of DAPO)
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw, grpo, groupAdvantages, models, policyModel } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/base", adamw({ lr: 1e-6 })) });
 * const update = groupAdvantages().then(actor.train(grpo({ epsilon: 0.2 })));
 * ```
 */
export function grpo(options: Clip & Averaged & Penalty): GroupLoss<Compared>;
export function grpo(options: Clip & Averaged & NoPenalty): GroupLoss<Sampled>;
export function grpo(options: Clip & Averaged & MaybePenalty): GroupLoss<Sampled> {
  const { epsilon, epsilonHigh = epsilon, beta, average: kind = "sequences" } = options;
  refuse(`make grpo${at(callSite())}`, [
    ...clipViolations(epsilon, epsilonHigh),
    penaltyViolation(beta),
    oneOf("average", kind, AVERAGES),
  ]);
  return groupLoss(beta, tokenGain(options), (x) => average(x, kind));
}

/**
 * Dr. GRPO (Liu et al. 2025, "Understanding R1-Zero-like training", eq. 2): GRPO without its two biases. Responses are
 * summed and divided by a constant instead of their own length, and advantages are not divided by the group's deviation
 * (`groupAdvantages({ scale: false })`). Reads and reports as {@link grpo}.
 *
 * @param options `maxTokens`: the constant, the longest response that is sampled
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw, drGrpo, groupAdvantages, models, policyModel } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/base", adamw({ lr: 1e-6 })) });
 * const update = groupAdvantages({ scale: false }).then(actor.train(drGrpo({ epsilon: 0.2, maxTokens: 512 })));
 * ```
 */
export function drGrpo(options: Clip & Penalty & { readonly maxTokens: number }): GroupLoss<Compared>;
export function drGrpo(options: Clip & NoPenalty & { readonly maxTokens: number }): GroupLoss<Sampled>;
export function drGrpo(
  options: Clip & MaybePenalty & { readonly maxTokens: number },
): GroupLoss<Sampled> {
  const { epsilon, epsilonHigh = epsilon, beta, maxTokens } = options;
  refuse(`make drGrpo${at(callSite())}`, [
    ...clipViolations(epsilon, epsilonHigh),
    penaltyViolation(beta),
    positive("maxTokens", maxTokens, "whole"),
  ]);
  return groupLoss(beta, tokenGain(options), (x) => x.sumPerSequence().mean().div(maxTokens));
}

/**
 * DAPO's loss (Yu et al. 2025, eq. 8): the clipped objective with a wider range above than below (clip-higher), averaged
 * over all actions (token-level), without a penalty unless `beta` asks for one. Its other parts are {@link overlongShaping}
 * and {@link refill}. Reads and reports as {@link grpo}.
 *
 * @param options 0.2 and 0.28 where not given, as in the paper
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw, dapo, groupAdvantages, models, policyModel } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/base", adamw({ lr: 1e-6 })) });
 * const update = groupAdvantages().then(actor.train(dapo()));
 * ```
 */
export function dapo(options: Partial<Clip> & Penalty): GroupLoss<Compared>;
export function dapo(options?: Partial<Clip> & NoPenalty): GroupLoss<Sampled>;
export function dapo(options: Partial<Clip> & MaybePenalty = {}): GroupLoss<Sampled> {
  const { epsilon = 0.2, epsilonHigh = 0.28, beta } = options;
  refuse(`make dapo${at(callSite())}`, [...clipViolations(epsilon, epsilonHigh), penaltyViolation(beta)]);
  return groupLoss(beta, tokenGain({ epsilon, epsilonHigh }), (x) => x.mean());
}

/**
 * Group sequence policy optimisation (Zheng et al. 2025, eq. 5–7): ratio and clipping belong to the whole response, s = (p
 * now ÷ p when sampling)^(1/length), because the advantage does too. Ranges are about a hundred times narrower than those of
 * single tokens. Reads and reports as {@link grpo}.
 *
 * @param options 3e-4 and 4e-4 where not given, as in the paper
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw, groupAdvantages, gspo, models, policyModel } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/base", adamw({ lr: 1e-6 })) });
 * const update = groupAdvantages().then(actor.train(gspo(), { minibatches: 4 }));
 * ```
 */
export function gspo(options: Partial<Clip> & Averaged & Penalty): GroupLoss<Compared>;
export function gspo(options?: Partial<Clip> & Averaged & NoPenalty): GroupLoss<Sampled>;
export function gspo(options: Partial<Clip> & MaybePenalty & Averaged = {}): GroupLoss<Sampled> {
  const { epsilon = 3e-4, epsilonHigh = 4e-4, beta, average: kind = "sequences" } = options;
  refuse(`make gspo${at(callSite())}`, [
    ...clipViolations(epsilon, epsilonHigh),
    penaltyViolation(beta),
    oneOf("average", kind, AVERAGES),
  ]);
  const gain = ({ logRatio, advantages }: Now): Gain =>
    clipped(logRatio.meanPerSequence().exp().spread(), advantages, epsilon, epsilonHigh);
  return groupLoss(beta, gain, (x) => average(x, kind));
}

/**
 * CISPO (MiniMax 2025, "MiniMax-M1", eq. 4–5): the importance weight is bounded from above and held constant, and the
 * gradient flows through log p, so that no action is ever left out. Averaged over all actions. Reads and reports as {@link
 * grpo}; `clipFraction` is the share of actions with a bounded weight.
 *
 * @param options `maxRatio`: the largest weight
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw, cispo, groupAdvantages, models, policyModel } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/base", adamw({ lr: 1e-6 })) });
 * const update = groupAdvantages().then(actor.train(cispo({ maxRatio: 3 })));
 * ```
 */
export function cispo(options: { readonly maxRatio: number } & Penalty): GroupLoss<Compared>;
export function cispo(options: { readonly maxRatio: number } & NoPenalty): GroupLoss<Sampled>;
export function cispo(options: { readonly maxRatio: number } & MaybePenalty): GroupLoss<Sampled> {
  const { maxRatio, beta } = options;
  refuse(`make cispo${at(callSite())}`, [positive("maxRatio", maxRatio), penaltyViolation(beta)]);
  const gain = ({ logRatio, advantages, logprobs }: Now): Gain => {
    const ratio = logRatio.exp().detach();
    return { gain: ratio.min(maxRatio).mul(advantages).mul(logprobs), cut: ratio.ge(maxRatio) };
  };
  return groupLoss(beta, gain, (x) => x.mean());
}
