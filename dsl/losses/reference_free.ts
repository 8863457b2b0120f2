/** Losses on preference pairs that need no reference model. */
import { type Loss, policyLoss } from "../loss.ts";
import type { None } from "../fields.ts";
import { between, positive, refuse } from "../options.ts";
import { at, callSite } from "../site.ts";
import { pairMetrics } from "./preference.ts";

type Alone<More extends string = never> = Loss<
  "lm",
  None,
  "accuracy" | "margin" | "chosenReward" | "rejectedReward" | More
>;

/**
 * SimPO (Meng et al. 2024, eq. 6): −log σ(β·(mean log p of chosen − that of rejected) − γ), lengths divided out. Metrics:
 * `accuracy`, `margin`, `chosenReward`, `rejectedReward` (β · mean log p).
 *
 * @param options `gamma`: the target margin
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw, models, policyModel, simpo } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/sft", adamw({ lr: 5e-7 })) });
 * const update = actor.train(simpo({ beta: 2, gamma: 1 }));
 * ```
 */
export function simpo({ beta, gamma }: { readonly beta: number; readonly gamma: number }): Alone {
  refuse(`make simpo${at(callSite())}`, [
    positive("beta", beta),
    !(gamma >= 0 && gamma < Infinity) && `gamma is ${gamma}, it must be 0 or more`,
  ]);
  return policyLoss({}, (now) => {
    const { chosen, rejected } = now.logprobs.meanPerSequence().mul(beta).pairs();
    return {
      loss: chosen.sub(rejected).sub(gamma).logSigmoid().mean().neg(),
      metrics: pairMetrics(chosen, rejected),
    };
  });
}

/**
 * CPO (Xu et al. 2024, "Contrastive preference optimization", eq. 5): DPO's term with a uniform reference, −log σ(β·(log p
 * of chosen − log p of rejected)), plus `alpha` times the negative log-likelihood per action of the chosen sequence.
 * Metrics: as {@link simpo}, and `nll`.
 *
 * @param options `alpha`: 1 where not given; `labelSmoothing`: as in {@link dpo}
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw, cpo, models, policyModel } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/sft", adamw({ lr: 5e-7 })) });
 * const update = actor.train(cpo({ beta: 0.1 }));
 * ```
 */
export function cpo(
  options: { readonly beta: number; readonly alpha?: number; readonly labelSmoothing?: number },
): Alone<"nll"> {
  const { beta, alpha = 1, labelSmoothing = 0 } = options;
  refuse(`make cpo${at(callSite())}`, [
    positive("beta", beta),
    !(alpha >= 0 && alpha < Infinity) && `alpha is ${alpha}, it must be 0 or more`,
    between("labelSmoothing", labelSmoothing, 0, 0.5),
  ]);
  return policyLoss({}, (now) => {
    const { chosen, rejected } = now.logprobs.sumPerSequence().mul(beta).pairs(), h = chosen.sub(rejected);
    const wins = h.logSigmoid().neg(), loses = h.neg().logSigmoid().neg();
    const preference = labelSmoothing === 0
      ? wins
      : wins.mul(1 - labelSmoothing).add(loses.mul(labelSmoothing));
    const nll = now.logprobs.meanPerSequence().pairs().chosen.neg();
    return {
      loss: preference.mean().add(nll.mean().mul(alpha)),
      metrics: { ...pairMetrics(chosen, rejected), nll: nll.mean() },
    };
  });
}

/**
 * ORPO (Hong et al. 2024, eq. 6–7): the negative log-likelihood per action of the chosen sequence, minus λ log σ of the log
 * odds ratio log(odds(chosen) ÷ odds(rejected)), odds = p ÷ (1 − p) of the mean log-probability p per action. Fine-tuning
 * and preference in one stage. Metrics: as {@link simpo} (rewards are λ · mean log p), `nll`, `logOdds`.
 *
 * @param options `lambda`: weight of the odds ratio, 0.1 in the paper
 * @throws RangeError for a `lambda` that is not above 0
 * @example
 * ```ts
 * import { adamw, models, orpo, policyModel } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/base", adamw({ lr: 8e-6 })) });
 * const update = actor.train(orpo({ lambda: 0.1 }));
 * ```
 */
export function orpo({ lambda }: { readonly lambda: number }): Alone<"nll" | "logOdds"> {
  refuse(`make orpo${at(callSite())}`, [positive("lambda", lambda)]);
  return policyLoss({}, (now) => {
    // log(1 − p) of a p that rounds to 1 would be −∞: such a sequence is learned, and 1e-6 keeps its gradient finite.
    const p = now.logprobs.meanPerSequence(), odds = p.sub(p.exp().rsub(1).max(1e-6).log()).pairs();
    const logOdds = odds.chosen.sub(odds.rejected), { chosen, rejected } = p.mul(lambda).pairs();
    const nll = p.pairs().chosen.neg();
    return {
      loss: nll.mean().sub(logOdds.logSigmoid().mean().mul(lambda)),
      metrics: { ...pairMetrics(chosen, rejected), nll: nll.mean(), logOdds: logOdds.mean() },
    };
  });
}
