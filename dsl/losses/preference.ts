/** Losses on preference pairs that compare with a reference: DPO and its relatives. */
import { type PerToken, perToken } from "../../ir/field.ts";
import { type Loss, policyLoss } from "../loss.ts";
import { between, positive, refuse } from "../options.ts";
import { at, callSite } from "../site.ts";
import type { Tensor } from "../tensor.ts";

type Pair = Tensor<"pair">;
type PairMetrics = "accuracy" | "margin" | "chosenReward" | "rejectedReward";
/** A loss of pairs that reads the reference's log-probabilities. */
type Compared = Loss<"lm", { readonly refLogprobs: PerToken }, PairMetrics>;

/** A loss of the implicit rewards β·(log p − log p of the reference) of both sequences, summed over actions or per action. */
function compared(
  beta: number,
  lossOf: (margin: Pair) => Pair,
  perAction = false,
): Compared {
  return policyLoss({ refLogprobs: perToken }, (now, batch) => {
    const gain = now.logprobs.sub(batch.refLogprobs);
    const { chosen, rejected } = (perAction ? gain.meanPerSequence() : gain.sumPerSequence()).mul(beta)
      .pairs();
    return { loss: lossOf(chosen.sub(rejected)).mean(), metrics: pairMetrics(chosen, rejected) };
  });
}

/** What is reported about the implicit rewards of pairs. */
export const pairMetrics = (chosen: Pair, rejected: Pair) => ({
  accuracy: rejected.lt(chosen).mean(),
  margin: chosen.sub(rejected).mean(),
  chosenReward: chosen.mean(),
  rejectedReward: rejected.mean(),
});

/**
 * Direct preference optimisation (Rafailov et al. 2023, eq. 7). Reads `refLogprobs`. Metrics: `accuracy` (share of pairs
 * whose chosen sequence has the higher implicit reward), `margin` (mean difference of implicit rewards), `chosenReward`,
 * `rejectedReward`.
 *
 * @param options `labelSmoothing` ε: a label is wrong with this probability, −(1 − ε) log σ(h) − ε log σ(−h) (conservative
 *   DPO, Mitchell 2023); 0 where not given
 * @throws RangeError for a `beta` that is not above 0 or an ε that is not from 0 to 0.5
 * @example
 * ```ts
 * import { adamw, dpo, models, policyModel } from "@baton/baton";
 *
 * const { actor, ref } = models({ actor: policyModel("models/sft", adamw({ lr: 5e-7 })), ref: policyModel("models/sft") });
 * const update = ref.infer().as("refLogprobs").then(actor.train(dpo({ beta: 0.1 })));
 * ```
 */
export function dpo(
  options: { readonly beta: number; readonly labelSmoothing?: number },
): Compared {
  const { beta, labelSmoothing = 0 } = options;
  refuse(`make dpo${at(callSite())}`, [
    positive("beta", beta),
    between("labelSmoothing", labelSmoothing, 0, 0.5),
  ]);
  return compared(beta, (h) => {
    const wins = h.logSigmoid().neg();
    if (labelSmoothing === 0) return wins;
    return wins.mul(1 - labelSmoothing).add(h.neg().logSigmoid().neg().mul(labelSmoothing));
  });
}

/**
 * Robust DPO (Chowdhury et al. 2024, eq. 12): unbiased where a share ε of the labels is flipped,
 * (−(1 − ε) log σ(h) + ε log σ(−h)) ÷ (1 − 2ε). Reads and reports as {@link dpo}.
 *
 * @throws RangeError for a `beta` that is not above 0 or a `flipped` that is not from 0 to below 0.5
 * @example
 * ```ts
 * import { adamw, models, policyModel, robustDpo } from "@baton/baton";
 *
 * const { actor, ref } = models({ actor: policyModel("models/sft", adamw({ lr: 5e-7 })), ref: policyModel("models/sft") });
 * const update = ref.infer().as("refLogprobs").then(actor.train(robustDpo({ beta: 0.1, flipped: 0.1 })));
 * ```
 */
export function robustDpo({ beta, flipped }: { readonly beta: number; readonly flipped: number }): Compared {
  refuse(`make robustDpo${at(callSite())}`, [
    positive("beta", beta),
    !(flipped >= 0 && flipped < 0.5) && `flipped is ${flipped}, it must be at least 0 and below 0.5`,
  ]);
  return compared(
    beta,
    (h) => h.logSigmoid().mul(flipped - 1).add(h.neg().logSigmoid().mul(flipped)).div(1 - 2 * flipped),
  );
}

/**
 * The hinge loss on the margin of implicit rewards, max(0, 1 − h) (Zhao et al. 2023, "SLiC-HF"; Liu et al. 2024, "RSO", eq.
 * 14). Reads and reports as {@link dpo}.
 *
 * @throws RangeError for a `beta` that is not above 0
 * @example
 * ```ts
 * import { adamw, hinge, models, policyModel } from "@baton/baton";
 *
 * const { actor, ref } = models({ actor: policyModel("models/sft", adamw({ lr: 5e-7 })), ref: policyModel("models/sft") });
 * const update = ref.infer().as("refLogprobs").then(actor.train(hinge({ beta: 0.1 })));
 * ```
 */
export function hinge({ beta }: { readonly beta: number }): Compared {
  refuse(`make hinge${at(callSite())}`, [positive("beta", beta)]);
  return compared(beta, (h) => h.rsub(1).max(0));
}

/**
 * Identity preference optimisation (Azar et al. 2023, eq. 17): the squared distance of the margin of log-ratios from 1 ÷
 * (2β), so that certain preferences do not drive it to infinity. Log-ratios are means per action (as is usual since the
 * authors' correction: sums favour long responses). Reads and reports as {@link dpo}, with log-ratios for implicit rewards.
 *
 * @param options `sum`: log-ratios are sums over actions, as printed in the paper
 * @throws RangeError for a `beta` that is not above 0
 * @example
 * ```ts
 * import { adamw, ipo, models, policyModel } from "@baton/baton";
 *
 * const { actor, ref } = models({ actor: policyModel("models/sft", adamw({ lr: 5e-7 })), ref: policyModel("models/sft") });
 * const update = ref.infer().as("refLogprobs").then(actor.train(ipo({ beta: 0.1 })));
 * ```
 */
export function ipo({ beta, sum = false }: { readonly beta: number; readonly sum?: boolean }): Compared {
  refuse(`make ipo${at(callSite())}`, [positive("beta", beta)]);
  return compared(1, (h) => h.sub(1 / (2 * beta)).square(), !sum);
}
