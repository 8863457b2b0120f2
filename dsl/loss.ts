/** Losses: traced functions from what the model makes now and from recorded data to one number. */
import type { Expr } from "../ir/expr.ts";
import { type PerSequence, perSequence, type PerTokenOf, type Schema } from "../ir/field.ts";
import type { Head } from "../ir/graph.ts";
import type { FieldError, Numbers, OneTokenField, TokenFieldOf } from "./fields.ts";
import { at, callSite } from "./site.ts";
import { Tensor } from "./tensor.ts";
import { type AnyTensor, type Symbols, tokenFieldOf, trace } from "./trace.ts";

/** A traced loss for models of one head, to be given to `train`. */
export interface Loss<H extends Head, In extends Schema, Metrics extends string = string> {
  readonly head: H;
  readonly reads: In;
  readonly expr: Expr;
  readonly metrics: readonly Metrics[];
}

interface NowOf<Of extends string> {
  readonly lm: { readonly logprobs: PerTokenOf<Of>; readonly entropy: PerTokenOf<Of> };
  readonly value: { readonly values: PerTokenOf<Of> };
  readonly reward: { readonly rewards: PerSequence };
}
type Now<H extends Head, Of extends string> = {
  readonly [K in keyof NowOf<Of>[H]]: Symbol_<NowOf<Of>[H][K], Of>;
};
type Symbol_<T, Of extends string> = T extends { readonly per: "token" } ? Tensor<"token", Of>
  : Tensor<"sequence", Of>;
type Scalar<Of extends string> = Tensor<"batch", Of>;
/** What a loss function returns; anything else is answered with a sentence. */
type Result<Of extends string> =
  | Scalar<Of>
  | { readonly loss: Scalar<Of>; readonly metrics?: Readonly<Record<string, Scalar<Of>>> };
type Reduced<R, Of extends string> = [R] extends [Result<Of>] ? unknown
  : FieldError<"a loss and its metrics are one number each, end with mean() or sum()", never>;
type MetricsOf<R> = R extends { readonly metrics?: infer M } ? Extract<keyof NonNullable<M>, string> : never;
interface Parts {
  readonly loss: AnyTensor;
  readonly metrics?: Readonly<Record<string, AnyTensor>>;
}

const NOW: Readonly<Record<Head, (of: string) => Schema>> = {
  lm: (of) => ({ logprobs: { per: "token", dtype: "f32", of }, entropy: { per: "token", dtype: "f32", of } }),
  value: (of) => ({ values: { per: "token", dtype: "f32", of } }),
  reward: () => ({ rewards: perSequence }),
};

type DefineLoss<H extends Head> = <
  const In extends Schema,
  R,
>(
  reads: In & OneTokenField<In> & Numbers<In>,
  fn: (
    now: Now<H, TokenFieldOf<In>>,
    batch: Symbols<In, TokenFieldOf<In>>,
  ) => R & Reduced<R, TokenFieldOf<In>>,
) => Loss<H, In, MetricsOf<R>>;

function lossFor<H extends Head>(head: H, what: string): DefineLoss<H> {
  return <In extends Schema, R>(
    reads: In,
    fn: (now: never, batch: never) => unknown,
  ): Loss<H, In, MetricsOf<R>> => {
    const model = NOW[head](tokenFieldOf(reads));
    const site = callSite();
    const expr = trace({ what, site, batch: reads, model }, ({ now, batch }) => {
      const result = fn(now as never, batch as never) as AnyTensor | Parts;
      if (result instanceof Tensor) return { loss: result };
      if (!(result?.loss instanceof Tensor)) {
        throw new TypeError(
          `Cannot trace ${what}: return the loss, or { loss, metrics }, and be not async${at(site)}`,
        );
      }
      if (result.metrics && "loss" in result.metrics) {
        throw new TypeError(
          `Cannot trace ${what}: a metric is called "loss", which is the loss itself${at(site)}`,
        );
      }
      return { ...result.metrics, loss: result.loss };
    });
    return {
      head,
      reads,
      expr,
      metrics: Object.keys(expr.outputs).filter((k) => k !== "loss") as MetricsOf<R>[],
    };
  };
}

/**
 * A loss for language models. `now.logprobs` and `now.entropy` (nats, per action) are differentiable, `batch` holds recorded
 * data. `mean()` and `sum()` run over the mini-batch, so micro-batches and data parallelism never change the result, and they
 * may enter the loss only linearly. Return the loss, or `{ loss, metrics }`.
 *
 * @param reads the fields of `batch`
 * @throws TypeError when the loss does not depend on `now`, is not one number, or is not linear in batch reductions
 * @example A policy gradient with a learned baseline
 * ```ts
 * import { perToken, policyLoss } from "@baton/baton";
 *
 * const policyGradient = policyLoss({ advantages: perToken }, (now, batch) => ({
 *   loss: now.logprobs.mul(batch.advantages).mean().neg(),
 *   metrics: { entropy: now.entropy.mean() },
 * }));
 * ```
 */
export const policyLoss: DefineLoss<"lm"> = lossFor("lm", "the policy loss");

/**
 * A loss for value models: `now.values` holds V before each action.
 *
 * @throws TypeError as {@link policyLoss}
 * @example
 * ```ts
 * import { perToken, valueLoss } from "@baton/baton";
 *
 * const squared = valueLoss({ returns: perToken }, (now, batch) => now.values.sub(batch.returns).square().mean().mul(0.5));
 * ```
 */
export const valueLoss: DefineLoss<"value"> = lossFor("value", "the value loss");

/**
 * A loss for reward models: `now.rewards` holds one number per sequence.
 *
 * @throws TypeError as {@link policyLoss}
 * @example Regression on given scores
 * ```ts
 * import { perSequence, rewardLoss } from "@baton/baton";
 *
 * const regression = rewardLoss({ scores: perSequence }, (now, batch) => now.rewards.sub(batch.scores).square().mean());
 * ```
 */
export const rewardLoss: DefineLoss<"reward"> = lossFor("reward", "the reward loss");
