/** Losses on given data: fine-tuning and reward models. */
import { type PerPair, perPair } from "../../ir/field.ts";
import type { None } from "../fields.ts";
import { type Loss, policyLoss, rewardLoss } from "../loss.ts";
import { refuse } from "../options.ts";
import { at, callSite } from "../site.ts";

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

type Fields<W, M> =
  & (W extends true ? { readonly pairWeight: PerPair } : unknown)
  & (M extends true ? { readonly margins: PerPair } : unknown);
type AsFields<T> = T extends { readonly [name: string]: PerPair } ? T : None;

/**
 * The Bradley-Terry loss of a reward model on preference pairs: −log σ(chosen − rejected), mean over pairs (Ouyang et al.
 * 2022, eq. 1). Metrics: `accuracy` and `margin` (mean of chosen − rejected).
 *
 * @param options `weighted`: with several pairs of one prompt, reads a `pairWeight` of each, usually 1 ÷ pairs of the
 *   prompt (eq. 1 divides by their number), and divides by the number of pairs in the mini-batch; `margins`: reads how much
 *   better the chosen one is and subtracts it (Touvron et al. 2023, "Llama 2", eq. 2); `centre`: weight of (chosen +
 *   rejected)², which keeps rewards around 0 (Eisenstein et al. 2023, eq. 7)
 * @throws RangeError for a negative `centre`
 * @example
 * ```ts
 * import { adamw, bradleyTerry, models, preferences, rewardModel, workflow } from "@baton/baton";
 *
 * const { reward } = models({ reward: rewardModel("models/sft", adamw({ lr: 1e-5 })) });
 * export default workflow({
 *   name: "reward",
 *   data: preferences("data/preferences.jsonl", { batch: 64 }),
 *   flow: reward.train(bradleyTerry({ centre: 0.01 })),
 * });
 * ```
 */
export function bradleyTerry<const W extends boolean = false, const M extends boolean = false>(
  options: { readonly weighted?: W; readonly margins?: M; readonly centre?: number } = {},
): Loss<"reward", AsFields<Fields<W, M>>, "accuracy" | "margin"> {
  const { weighted, margins, centre = 0 } = options;
  refuse(`make bradleyTerry${at(callSite())}`, [
    !(centre >= 0 && centre < Infinity) && `centre is ${centre}, it must be 0 or more`,
  ]);
  const reads = { ...(weighted && { pairWeight: perPair }), ...(margins && { margins: perPair }) };
  return rewardLoss(reads as { pairWeight: PerPair; margins: PerPair }, (now, batch) => {
    const { chosen, rejected } = now.rewards.pairs(), margin = chosen.sub(rejected);
    const perPair = (margins ? margin.sub(batch.margins) : margin).logSigmoid().neg();
    const apart = weighted ? perPair.mul(batch.pairWeight).mean() : perPair.mean();
    return {
      loss: centre ? apart.add(chosen.add(rejected).square().mean().mul(centre)) : apart,
      metrics: { accuracy: rejected.lt(chosen).mean(), margin: margin.mean() },
    };
  }) as never;
}
