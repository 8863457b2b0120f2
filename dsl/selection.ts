/** Flows that change which samples a step goes on with: selection within a group, and refilling (dynamic sampling). */
import type { PerSequence, Schema } from "../ir/field.ts";
import { perSequence } from "../ir/field.ts";
import { keptBy } from "../ir/groups.ts";
import type { Draft } from "./draft.ts";
import { checkName, type FieldError, type None } from "./fields.ts";
import { type Alone, CallFlow, Flow } from "./flow.ts";
import { positive, refuse } from "./options.ts";
import { at, callSite } from "./site.ts";

class Selection<in out In extends Schema> extends CallFlow<In, None> implements Alone {
  readonly alone = true;
}
class Refilled<out In extends Schema, out Out extends Schema> extends Flow<In, Out> implements Alone {
  readonly alone = true;
}

/**
 * Keeps some samples of each prompt: the `keep` with the largest values of `by`, in the order in which they were sampled, or
 * `"bestAndWorst"` as a preference pair (best-of-n, Stiennon et al. 2020, §3.1; pairs for online DPO, Guo et al. 2024). What
 * comes later sees the step as if nothing else had been sampled; rollout metrics are of all samples, and `select/kept` is
 * the mean of `by` over those that stay. Stands in a `then()` of its own.
 *
 * @throws RangeError for a `keep` that is not a whole number above 0
 * @example
 * ```ts
 * import { adamw, dpo, models, policyModel, rewardModel, select } from "@baton/baton";
 *
 * const { actor, ref, reward } = models({
 *   actor: policyModel("models/sft", adamw({ lr: 5e-7 })),
 *   ref: policyModel("models/sft"),
 *   reward: rewardModel("models/reward"),
 * });
 * const onlineDpo = actor.generate({ samples: 4 }).then(reward.infer())
 *   .then(select({ by: "rewards", keep: "bestAndWorst" }))
 *   .then(ref.infer().as("refLogprobs"))
 *   .then(actor.train(dpo({ beta: 0.1 })));
 * ```
 */
export function select<const By extends string>(
  options: { readonly by: By; readonly keep: number | "bestAndWorst" },
): Selection<{ readonly [K in By]: PerSequence }> {
  const { by, keep } = options, site = callSite();
  checkName("field", by);
  refuse(`select samples${at(site)}`, [positive("keep", keptBy(keep), "whole")]);
  return new Selection({
    name: "select",
    named: false,
    call: { kind: "select", keep, reads: { by }, writes: {}, ...(site && { site }) },
    reads: { [by]: perSequence },
    writes: {},
  });
}

type OfBatch<S> = { [K in keyof S]: S[K] extends { readonly per: "batch" } ? K : never }[keyof S];
/** A number of the batch would be another one in every round, of that round's prompts only. */
type PerRound<Out> = [OfBatch<Out>] extends [never] ? unknown
  : FieldError<
    "refill() repeats this for some prompts only, write values of the whole batch after it",
    OfBatch<Out>
  >;

/**
 * Runs a flow until every prompt of the step passes: those of which some sample has a 0 in `until` are replaced by other
 * prompts of the data set and the flow runs for these again, in `maxRounds` rounds at most (dynamic sampling, Yu et al.
 * 2025, "DAPO", §3.2). The batch always has its full size: what has not passed in the last round stays. Folds over the batch
 * see the prompts of one round. Metrics: `refill/rounds` and `refill/failed` (share of prompts that never passed). Stands in
 * a `then()` of its own.
 *
 * @throws RangeError for a `maxRounds` that is not a whole number above 0
 * @example Only prompts whose samples differ in reward have an advantage to learn from
 * ```ts
 * import { compute, models, perSequence, policyModel, refill, rewardModel } from "@baton/baton";
 *
 * const { actor, reward } = models({ actor: policyModel("models/sft"), reward: rewardModel("models/reward") });
 * const informative = compute("informative", { rewards: perSequence }, ({ rewards }) => ({
 *   informative: rewards.groupStd().ge(1e-6),
 * }));
 * const rollout = refill(actor.generate({ samples: 8 }).then(reward.infer()).then(informative), {
 *   until: "informative",
 *   maxRounds: 3,
 * });
 * ```
 */
export function refill<In extends Schema, Out extends Schema>(
  flow: Flow<In, Out> & PerRound<Out>,
  options: {
    readonly until: { [K in keyof Out]: Out[K] extends PerSequence ? K : never }[keyof Out];
    readonly maxRounds: number;
  },
): Refilled<In, Out> {
  const { maxRounds } = options, until = options.until as string, site = callSite();
  refuse(`refill${at(site)}`, [positive("maxRounds", maxRounds, "whole")]);
  const type = (flow.writes as Schema)[until];
  if (type?.per !== "sequence" || type.dtype !== "f32") {
    throw new TypeError(
      `Cannot refill${at(site)}: "${until}" is ${
        type ? `${type.dtype} per ${type.per}` : "written by no call of the flow"
      }, decide by a number per sequence that it writes`,
    );
  }
  const draft: Draft = {
    name: "refill",
    named: false,
    call: { kind: "refill", maxRounds, reads: { until }, writes: {}, ...(site && { site }) },
    reads: { [until]: perSequence },
    writes: {},
  };
  return new Refilled(flow.reads, flow.writes, [...flow.drafts, draft]);
}
