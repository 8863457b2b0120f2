/** The types of models and of the calls that they offer. */
import type { PerSequence, PerTokenOf, Schema, Text, TokenIds } from "../ir/field.ts";
import type { AdamW, Head, ModelSpec } from "../ir/graph.ts";
import type { FieldError, None, TokenFieldOf } from "./fields.ts";
import type { CallFlow } from "./flow.ts";
import type { Loss } from "./loss.ts";
import type { SamplingOptions } from "./sampling.ts";
import type { ToolOptions } from "./tools.ts";

/** A model as the script declares it: what it is, and whether it is trained. */
export interface Model<H extends Head, O extends AdamW | null> extends ModelSpec {
  readonly head: H;
  readonly optimizer: O;
}
type TokenField<Of extends string> = { readonly [K in Of]: TokenIds };
type Generated = {
  readonly tokens: TokenIds;
  readonly response: Text;
  readonly logprobs: PerTokenOf<"tokens">;
  readonly length: PerSequence;
  readonly finished: PerSequence;
};

export interface TrainOptions<Metrics extends string> {
  /** Optimizer updates per epoch: the batch is cut into this many mini-batches by whole groups. Default 1. */
  readonly minibatches?: number;
  /** Passes over the batch. Default 1. */
  readonly epochs?: number;
  /** A metric of the loss: once it is not zero, this call makes no more updates in this step. */
  readonly stopWhen?: Metrics;
}

interface Generates {
  /**
   * Samples responses to the prompts. Writes `tokens` (prompt and response, the response's tokens are the actions),
   * `response` (text), `logprobs` (of softmax(logits / temperature), before top-k and top-p unless `keepSampledMask`), `length` (actions) and
   * `finished` (1 where a stop token was sampled, 0 where the response was cut). With `tools`, a response is all turns and
   * the answers between them; the answers' tokens are in `tokens` and `response` and are no actions.
   */
  generate(
    options?: SamplingOptions & ToolOptions,
  ): CallFlow<{ readonly prompt: Text }, Generated>;
}
interface InfersLogprobs {
  /** Log-probabilities of the actions under this model; with `entropy` also the entropy of each action's distribution. */
  infer<const From extends string = "tokens", const E extends boolean = false>(
    options?: { readonly from?: From; readonly entropy?: E },
  ): CallFlow<
    TokenField<From>,
    E extends true ? { readonly logprobs: PerTokenOf<From>; readonly entropy: PerTokenOf<From> }
      : { readonly logprobs: PerTokenOf<From> }
  >;
}
interface InfersValues {
  /** V before each action; with `final` also `finalValues`, V after the last action of each sequence. */
  infer<const From extends string = "tokens", const F extends boolean = false>(
    options?: { readonly from?: From; readonly final?: F },
  ): CallFlow<
    TokenField<From>,
    F extends true ? { readonly values: PerTokenOf<From>; readonly finalValues: PerSequence }
      : { readonly values: PerTokenOf<From> }
  >;
}
interface InfersRewards {
  /** One reward per sequence, read at its last token. */
  infer<const From extends string = "tokens">(
    options?: { readonly from?: From },
  ): CallFlow<TokenField<From>, { readonly rewards: PerSequence }>;
}
interface Trains<H extends Head> {
  /** Gradient steps on a loss. Writes no field but a new version of the model. */
  train<L extends Head, In extends Schema, Metrics extends string>(
    loss: Loss<L, In, Metrics> & ForHead<H, L>,
    options?: TrainOptions<NoInfer<Metrics>>,
  ): CallFlow<TokenField<TokenFieldOf<In>> & In, None>;
}
/** What the editor says where a frozen model is trained; nothing is there when the script runs. */
interface Frozen {
  readonly train?: FieldError<"this model is frozen, declare it with an optimizer to train it", never>;
}
type ForHead<H extends Head, L extends Head> = L extends H ? unknown
  : FieldError<"this loss is for another head, see policyLoss, valueLoss and rewardLoss", L>;
interface Infers {
  readonly lm: Generates & InfersLogprobs;
  readonly value: InfersValues;
  readonly reward: InfersRewards;
}
/** The calls that a model offers: `train` only when it was given an optimizer. */
export type Handle<M> = M extends Model<infer H, infer O> ? Infers[H] & (O extends AdamW ? Trains<H> : Frozen)
  : never;
