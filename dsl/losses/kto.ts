/** Kahneman–Tversky optimisation: preferences without pairs. */
import {
  type PerBatch,
  perBatch,
  type PerSequence,
  perSequence,
  type PerToken,
  perToken,
  type PerTokenOf,
  perTokenOf,
  type TokenIds,
} from "../../ir/field.ts";
import { compute } from "../compute.ts";
import type { CallFlow } from "../flow.ts";
import { type Loss, policyLoss } from "../loss.ts";
import { positive, refuse } from "../options.ts";
import { at, callSite } from "../site.ts";

type Mismatched = {
  readonly mismatchedTokens: TokenIds;
  readonly mismatchedLogprobs: PerTokenOf<"mismatchedTokens">;
  readonly mismatchedRef: PerTokenOf<"mismatchedTokens">;
};

/**
 * KTO's reference point (Ethayarajh et al. 2024, §4.1): max(0, mean of log p − log p of the reference) over responses that
 * belong to other prompts, an estimate of KL(policy ‖ reference) of the step. Reads `mismatchedLogprobs` and `mismatchedRef`
 * of the token field `mismatchedTokens`, a column of the data set; writes `referencePoint`.
 *
 * @example
 * ```ts
 * import { adamw, ktoReferencePoint, models, policyModel } from "@baton/baton";
 *
 * const { actor, ref } = models({ actor: policyModel("models/sft", adamw({ lr: 5e-7 })), ref: policyModel("models/sft") });
 * const point = actor.infer({ from: "mismatchedTokens" }).as("mismatchedLogprobs")
 *   .then(ref.infer({ from: "mismatchedTokens" }).as("mismatchedRef"))
 *   .then(ktoReferencePoint());
 * ```
 */
export const ktoReferencePoint = (): CallFlow<Mismatched, { readonly referencePoint: PerBatch }> =>
  compute(
    "ktoReferencePoint",
    {
      mismatchedLogprobs: perTokenOf("mismatchedTokens"),
      mismatchedRef: perTokenOf("mismatchedTokens"),
    },
    (b) => ({ referencePoint: b.mismatchedLogprobs.sub(b.mismatchedRef).sumPerSequence().mean().max(0) }),
  );

type KtoReads = {
  readonly refLogprobs: PerToken;
  readonly desirable: PerSequence;
  readonly referencePoint: PerBatch;
};

/**
 * KTO (Ethayarajh et al. 2024, eq. 8): with r = log p − log p of the reference and z the reference point, λ_D·(1 − σ(β(r −
 * z))) for desirable responses and λ_U·(1 − σ(β(z − r))) for others, mean over sequences. Reads `refLogprobs`, `desirable`
 * (1 or 0) and `referencePoint` (from {@link ktoReferencePoint}). Metrics: `desirableReward` and `undesirableReward` (mean
 * of β·r over those of each kind), `margin` (their difference).
 *
 * @param options λ are 1 where not given; the paper keeps λ_D·desirable ÷ (λ_U·undesirable) between 1 and 4/3
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw, kto, models, policyModel } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/sft", adamw({ lr: 5e-7 })) });
 * const update = actor.train(kto({ beta: 0.1, undesirableWeight: 1.2 }));
 * ```
 */
export function kto(
  options: {
    readonly beta: number;
    readonly desirableWeight?: number;
    readonly undesirableWeight?: number;
  },
): Loss<"lm", KtoReads, "desirableReward" | "undesirableReward" | "margin"> {
  const { beta, desirableWeight = 1, undesirableWeight = 1 } = options;
  refuse(`make kto${at(callSite())}`, [
    positive("beta", beta),
    positive("desirableWeight", desirableWeight),
    positive("undesirableWeight", undesirableWeight),
  ]);
  const reads = { refLogprobs: perToken, desirable: perSequence, referencePoint: perBatch };
  return policyLoss(reads, (now, { refLogprobs, desirable, referencePoint }) => {
    const reward = now.logprobs.sub(refLogprobs).sumPerSequence().mul(beta);
    const gain = reward.sub(referencePoint.mul(beta));
    const good = gain.sigmoid().rsub(1).mul(desirableWeight);
    const bad = gain.neg().sigmoid().rsub(1).mul(undesirableWeight);
    const meanOf = (kind: typeof desirable) => reward.detach().mul(kind).sum().div(kind.sum().max(1));
    const desirableReward = meanOf(desirable), undesirableReward = meanOf(desirable.rsub(1));
    return {
      loss: desirable.where(good, bad).mean(),
      metrics: { desirableReward, undesirableReward, margin: desirableReward.sub(undesirableReward) },
    };
  });
}
