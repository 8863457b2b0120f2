/** Models of a script and the calls that they offer. */
import { perSequence, type Schema, text, tokenIds } from "../ir/field.ts";
import type { AdamW, Ema, Head, Lora, ModelSpec, Ports } from "../ir/graph.ts";
import type { Draft } from "./draft.ts";
import { checkName } from "./fields.ts";
import { CallFlow } from "./flow.ts";
import type { Handle, Model, TrainOptions } from "./handle.ts";
import { sampling, type SamplingOptions } from "./sampling.ts";
import type { Loss } from "./loss.ts";
import { positive, refuse } from "./options.ts";
import { at, callSite } from "./site.ts";
import { type ToolOptions, toolsOf } from "./tools.ts";
import { tokenFieldOf } from "./trace.ts";

interface Declare<H extends Head> {
  (checkpoint: string): Model<H, null>;
  (checkpoint: string, optimizer: AdamW, adapter?: Lora): Model<H, AdamW>;
  (checkpoint: string, follows: Ema): Model<H, null>;
}
function modelOf<H extends Head>(head: H): Declare<H> {
  function declare(checkpoint: string): Model<H, null>;
  function declare(checkpoint: string, optimizer: AdamW, adapter?: Lora): Model<H, AdamW>;
  function declare(checkpoint: string, follows: Ema): Model<H, null>;
  function declare(
    checkpoint: string,
    changes?: AdamW | Ema,
    adapter?: Lora,
  ): Model<H, AdamW | null> {
    if (typeof checkpoint !== "string" || checkpoint === "") {
      throw new TypeError(
        `Cannot declare a model${at(callSite())}: give the folder of its checkpoint or its name on the hub`,
      );
    }
    // In JavaScript nothing else keeps an adapter from the optimizer's place, or from a model that follows another.
    if ((changes && "rank" in changes) || (adapter && !(changes && "lr" in changes))) {
      throw new TypeError(
        `Cannot declare a model${
          at(callSite())
        }: an adapter is trained, give its optimizer first and then the adapter`,
      );
    }
    if (changes && "of" in changes) return { head, checkpoint, optimizer: null, ema: changes };
    return { head, checkpoint, optimizer: changes ?? null, ...(adapter && { lora: adapter }) };
  }
  return declare;
}

/**
 * A language model: generates, and gives the log-probabilities of tokens. Frozen without an optimizer.
 *
 * @param checkpoint folder with config.json and weights, or a model of the hub as "Qwen/Qwen3-0.6B", downloaded when it is needed
 * @throws TypeError without a checkpoint
 * @example
 * ```ts
 * import { adamw, lora, policyModel } from "@baton/baton";
 *
 * const trained = policyModel("models/Qwen3-0.6B", adamw({ lr: 1e-6 }));
 * const adapted = policyModel("models/Qwen3-0.6B", adamw({ lr: 1e-4 }), lora({ rank: 16 }));
 * const frozen = policyModel("models/Qwen3-0.6B");
 * ```
 */
export const policyModel: Declare<"lm"> = modelOf("lm");
/**
 * A model with one number per action: a critic. May start from a language model's checkpoint.
 *
 * @throws TypeError without a checkpoint
 * @example
 * ```ts
 * import { adamw, valueModel } from "@baton/baton";
 *
 * const critic = valueModel("models/Qwen3-0.6B", adamw({ lr: 5e-6 }));
 * ```
 */
export const valueModel: Declare<"value"> = modelOf("value");
/**
 * A model with one number per sequence: a reward model.
 *
 * @throws TypeError without a checkpoint
 * @example
 * ```ts
 * import { rewardModel } from "@baton/baton";
 *
 * const reward = rewardModel("models/Skywork-Reward-V2-Qwen3-0.6B");
 * ```
 */
export const rewardModel: Declare<"reward"> = modelOf("reward");

interface InferOptions {
  readonly from?: string;
  readonly entropy?: boolean;
  readonly final?: boolean;
}

function inferred(head: Head, of: string, o: InferOptions): Schema {
  const token = { per: "token", dtype: "f32", of } as const;
  switch (head) {
    case "lm":
      return { logprobs: token, ...(o.entropy && { entropy: token }) };
    case "value":
      return { values: token, ...(o.final && { finalValues: perSequence }) };
    case "reward":
      return { rewards: perSequence };
  }
}

const identity = (schema: Schema): Ports =>
  Object.fromEntries(Object.keys(schema).map((field) => [field, field]));

/** What a model's calls have in common; the types of {@link Handle} say which of them a script sees. */
function handle(model: string, spec: ModelSpec) {
  const call = (verb: string, draft: Omit<Draft, "name" | "named" | "spec">) =>
    new CallFlow({ ...draft, name: `${model}.${verb}`, named: false, spec });
  return {
    ...(spec.head === "lm" && {
      generate(
        { tools, maxTurns, ...options }: SamplingOptions & ToolOptions = {},
      ) {
        const site = callSite(), reads = { prompt: text };
        const turns = toolsOf({ ...(tools && { tools }), ...(maxTurns !== undefined && { maxTurns }) }, site);
        const logprobs = { per: "token", dtype: "f32", of: "tokens" } as const;
        const writes = {
          tokens: tokenIds,
          response: text,
          logprobs,
          length: perSequence,
          finished: perSequence,
        };
        const ports = { reads: identity(reads), writes: identity(writes), ...(site && { site }) };
        return call("generate", {
          call: { kind: "generate", model, sampling: sampling(options, site), ...turns, ...ports },
          reads,
          writes,
          ...(tools && { tools }),
        });
      },
    }),
    infer({ from = "tokens", ...options }: InferOptions = {}) {
      const site = callSite();
      checkName("field", from);
      const writes = inferred(spec.head, from, options);
      const ports = { reads: { tokens: from }, writes: identity(writes), ...(site && { site }) };
      return call("infer", { call: { kind: "infer", model, ...ports }, reads: { [from]: tokenIds }, writes });
    },
    ...(spec.optimizer && {
      train(loss: Loss<Head, Schema>, options: TrainOptions<string> = {}) {
        const site = callSite(), { minibatches = 1, epochs = 1, stopWhen } = options;
        if (loss?.head !== spec.head) {
          throw new TypeError(
            `Cannot train ${model}${
              at(site)
            }: it is a ${spec.head} model and the loss is for ${loss?.head} models`,
          );
        }
        refuse(`train ${model}${at(site)}`, [
          positive("minibatches", minibatches, "whole"),
          positive("epochs", epochs, "whole"),
          stopWhen !== undefined && !loss.metrics.includes(stopWhen) &&
          `the loss has no metric "${stopWhen}" but ${loss.metrics.join(", ") || "none"}`,
        ]);
        const of = tokenFieldOf(loss.reads);
        const ports = { reads: { tokens: of, ...identity(loss.reads) }, writes: {}, ...(site && { site }) };
        return call("train", {
          call: {
            kind: "train",
            model,
            loss: loss.expr,
            minibatches,
            epochs,
            ...(stopWhen !== undefined && { stopWhen }),
            ...ports,
          },
          reads: { [of]: tokenIds, ...loss.reads },
          writes: {},
        });
      },
    }),
  };
}

/** A model that follows another one follows one of its kind that is trained. */
function checkFollowed(
  name: string,
  { ema, head }: ModelSpec,
  specs: Readonly<Record<string, ModelSpec>>,
): void {
  if (!ema) return;
  const of = specs[ema.of], what = `Cannot declare ${name}${at(callSite())}: it follows "${ema.of}", `;
  if (!of) throw new TypeError(`${what}which is not among ${Object.keys(specs).join(", ")}`);
  if (!of.optimizer) throw new TypeError(`${what}which has no optimizer, give it one`);
  if (of.lora) throw new TypeError(`${what}of which an adapter is trained alone, train it whole`);
  if (of.head !== head) throw new TypeError(`${what}a ${of.head} model, and is a ${head} model itself`);
}

/**
 * Declares the models of a script. The keys become their names in plans, logs and checkpoints.
 *
 * @throws TypeError for a name that is no identifier
 * @example
 * ```ts
 * import { adamw, models, policyModel, rewardModel } from "@baton/baton";
 *
 * const { actor, ref, reward } = models({
 *   actor: policyModel("models/Qwen3-0.6B", adamw({ lr: 1e-6 })),
 *   ref: policyModel("models/Qwen3-0.6B"),
 *   reward: rewardModel("models/Skywork-Reward-V2-Qwen3-0.6B"),
 * });
 * const judged = actor.generate({ maxNewTokens: 256 }).then(reward.infer(), ref.infer().as("refLogprobs"));
 * ```
 */
export function models<const M extends Readonly<Record<string, Model<Head, AdamW | null>>>>(
  specs: M,
): { readonly [K in keyof M]: Handle<M[K]> } {
  return Object.fromEntries(
    Object.entries(specs).map(([name, spec]) => {
      checkName("model", name);
      checkFollowed(name, spec, specs);
      return [name, handle(name, spec)];
    }),
  ) as never;
}
