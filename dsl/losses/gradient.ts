/** Policy gradients of whole responses, and learning from a teacher on one's own samples. */
import { type PerSequence, perSequence, type PerToken, perToken } from "../../ir/field.ts";
import { type Loss, policyLoss } from "../loss.ts";
import { oneOf, refuse } from "../options.ts";
import { at, callSite } from "../site.ts";
import { type Average, average, AVERAGES, clipped, clipViolations } from "./parts.ts";

/**
 * REINFORCE (Williams 1992) with an advantage per response: −A · log p(response), mean over responses. Reads `advantages`
 * (per sequence), from {@link leaveOneOut}, {@link baselineAdvantages} or a script's own. Metric: `entropy` (nats per
 * action).
 *
 * @param options `average`: without it, log p is the sum over the response's actions, as the theorem has it; `"tokens"`
 *   and `"sequences"` divide by numbers of actions
 * @throws RangeError for an unknown average
 * @example
 * ```ts
 * import { adamw, baselineAdvantages, models, policyModel, reinforce } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/base", adamw({ lr: 1e-6 })) });
 * const update = baselineAdvantages().then(actor.train(reinforce()));
 * ```
 */
export function reinforce(
  options: { readonly average?: Average } = {},
): Loss<"lm", { readonly advantages: PerSequence }, "entropy"> {
  const { average: kind } = options;
  refuse(`make reinforce${at(callSite())}`, [kind !== undefined && oneOf("average", kind, AVERAGES)]);
  return policyLoss({ advantages: perSequence }, (now, { advantages }) => {
    const gain = now.logprobs.mul(advantages.spread());
    const mean = kind === undefined ? gain.sumPerSequence().mean() : average(gain, kind);
    return { loss: mean.neg(), metrics: { entropy: now.entropy.mean() } };
  });
}

/**
 * The loss of RLOO (Ahmadian et al. 2024, "Back to basics", eq. 6) for more than one update per batch: PPO's clipped
 * objective on the ratio of whole responses. In the first update its gradient is that of {@link reinforce}. Reads `logprobs`
 * and `advantages` (per sequence, from {@link leaveOneOut}). Metrics: `clipFraction` (share of responses), `entropy`.
 *
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw, leaveOneOut, models, policyModel, rloo } from "@baton/baton";
 *
 * const { actor } = models({ actor: policyModel("models/base", adamw({ lr: 1e-6 })) });
 * const update = leaveOneOut().then(actor.train(rloo({ epsilon: 0.2 })));
 * ```
 */
export function rloo(
  options: { readonly epsilon: number; readonly epsilonHigh?: number },
): Loss<
  "lm",
  { readonly logprobs: PerToken; readonly advantages: PerSequence },
  "clipFraction" | "entropy"
> {
  const { epsilon, epsilonHigh = epsilon } = options;
  refuse(`make rloo${at(callSite())}`, clipViolations(epsilon, epsilonHigh));
  return policyLoss({ logprobs: perToken, advantages: perSequence }, (now, batch) => {
    const ratio = now.logprobs.sub(batch.logprobs).sumPerSequence().exp();
    const { gain, cut } = clipped(ratio, batch.advantages, epsilon, epsilonHigh);
    return {
      loss: gain.mean().neg(),
      metrics: { clipFraction: cut.mean(), entropy: now.entropy.mean() },
    };
  });
}

/**
 * On-policy distillation (Agarwal et al. 2024, "GKD", eq. 4 with student samples; Lu et al. 2025): the policy gradient of
 * the reverse KL(student ‖ teacher) on the student's own samples, each action weighed with log p(teacher) − log p(student)
 * and the ratio of now to when it was sampled, mean over actions. Reads `logprobs` and `teacherLogprobs`. Metrics:
 * `reverseKl` (nats per action, when sampled), `entropy`.
 *
 * @param options with `epsilon` the ratio is clipped as in PPO, for several updates on one batch
 * @throws RangeError for an `epsilon` that is not above 0 and below 1
 * @example
 * ```ts
 * import { adamw, distill, models, policyModel } from "@baton/baton";
 *
 * const { student, teacher } = models({
 *   student: policyModel("models/Qwen3-0.6B", adamw({ lr: 1e-5 })),
 *   teacher: policyModel("models/Qwen3-8B"),
 * });
 * const step = student.generate().then(teacher.infer().as("teacherLogprobs")).then(student.train(distill()));
 * ```
 */
export function distill(
  options: { readonly epsilon?: number } = {},
): Loss<"lm", { readonly logprobs: PerToken; readonly teacherLogprobs: PerToken }, "reverseKl" | "entropy"> {
  const { epsilon } = options;
  refuse(`make distill${at(callSite())}`, epsilon === undefined ? [] : clipViolations(epsilon, epsilon));
  return policyLoss({ logprobs: perToken, teacherLogprobs: perToken }, (now, batch) => {
    const better = batch.teacherLogprobs.sub(batch.logprobs), ratio = now.logprobs.sub(batch.logprobs).exp();
    const gain = epsilon === undefined ? ratio.mul(better) : clipped(ratio, better, epsilon, epsilon).gain;
    return {
      loss: gain.mean().neg(),
      metrics: { reverseKl: better.mean().neg(), entropy: now.entropy.mean() },
    };
  });
}
