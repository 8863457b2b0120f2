/** Advantages of responses: relative to the others of the same prompt, or to a baseline. */
import { type PerSequence, perSequence } from "../../ir/field.ts";
import { compute } from "../compute.ts";
import type { CallFlow } from "../flow.ts";
import { refuse } from "../options.ts";
import { at, callSite } from "../site.ts";
import type { Tensor } from "../tensor.ts";

type Advantages = { readonly advantages: PerSequence };
type Rewarded = { readonly rewards: PerSequence };

/**
 * Advantages relative to the other samples of a prompt: (reward − group mean) ÷ (group standard deviation + eps), as in GRPO
 * (Shao et al. 2024, §4.1.2). Reads `rewards`, writes `advantages`, one per sequence: `spread()` them in the loss.
 *
 * @param options `scale: false` leaves out the division (Liu et al. 2025, "Dr. GRPO"), `"batch"` divides by the deviation
 *   of all rewards of the step, where Hu 2025 ("REINFORCE++-baseline") has that of the differences; `eps` is 1e-4 by default
 * @throws RangeError for a negative `eps`
 * @example
 * ```ts
 * import { groupAdvantages } from "@baton/baton";
 *
 * const relative = groupAdvantages({ scale: false });
 * ```
 */
export function groupAdvantages(
  options: { readonly scale?: boolean | "batch"; readonly eps?: number } = {},
): CallFlow<Rewarded, Advantages> {
  const { scale = true, eps = 1e-4 } = options;
  refuse(`make groupAdvantages${at(callSite())}`, [epsViolation(eps)]);
  return compute("groupAdvantages", { rewards: perSequence }, ({ rewards }) => {
    const centred = rewards.sub(rewards.groupMean());
    if (scale === "batch") return { advantages: centred.div(deviation(rewards).add(eps)) };
    return { advantages: scale ? centred.div(rewards.groupStd({ eps })) : centred };
  });
}

const epsViolation = (eps: number) => !(eps >= 0 && eps < Infinity) && `eps is ${eps}, it must be 0 or more`;

/** Unbiased standard deviation over all sequences of the step. */
function deviation(x: Tensor<"sequence">): Tensor<"batch"> {
  const count = x.mul(0).add(1).sum();
  return x.sub(x.mean()).square().sum().div(count.sub(1).max(1)).sqrt();
}

/**
 * The leave-one-out advantages of RLOO (Ahmadian et al. 2024, eq. 4): a response's reward minus the mean reward of the
 * others of its prompt. Reads `rewards`, writes `advantages` per sequence.
 *
 * @param options `normalize`: mean 0 and unbiased deviation 1 over the step; `eps` is added to that deviation, 1e-4 by
 *   default
 * @throws RangeError for a negative `eps`
 * @example
 * ```ts
 * import { leaveOneOut } from "@baton/baton";
 *
 * const advantages = leaveOneOut();
 * ```
 */
export function leaveOneOut(
  options: { readonly normalize?: boolean; readonly eps?: number } = {},
): CallFlow<Rewarded, Advantages> {
  const { normalize = false, eps = 1e-4 } = options;
  refuse(`make leaveOneOut${at(callSite())}`, [epsViolation(eps)]);
  return compute("leaveOneOut", { rewards: perSequence }, ({ rewards }) => {
    const samples = rewards.mul(0).add(1).groupSum();
    // r − (Σ − r) ÷ (n − 1), in the form in which equal rewards give exactly 0.
    const own = rewards.sub(rewards.groupMean()).mul(samples).div(samples.sub(1).max(1));
    return { advantages: normalize ? own.sub(own.mean()).div(deviation(own).add(eps)) : own };
  });
}

/**
 * Reward minus a baseline of the same prompt: in ReMax (Li et al. 2024, eq. 5), the reward of the greedy response. Reads
 * `rewards` and `baseline`, writes `advantages` per sequence.
 *
 * @example
 * ```ts
 * import { baselineAdvantages, models, policyModel, rewardModel } from "@baton/baton";
 *
 * const { actor, reward } = models({ actor: policyModel("models/sft"), reward: rewardModel("models/reward") });
 * const greedy = actor.generate({ temperature: 0 }).as({ tokens: "greedyTokens" });
 * const advantages = actor.generate().then(greedy)
 *   .then(reward.infer(), reward.infer({ from: "greedyTokens" }).as("baseline"))
 *   .then(baselineAdvantages());
 * ```
 */
export const baselineAdvantages = (): CallFlow<Rewarded & { readonly baseline: PerSequence }, Advantages> =>
  compute("baselineAdvantages", { rewards: perSequence, baseline: perSequence }, ({ rewards, baseline }) => ({
    advantages: rewards.sub(baseline),
  }));
