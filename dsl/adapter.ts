/** Adapters as values. */
import { ADAPTABLE, type Adaptable, type Lora } from "../ir/graph.ts";
import { oneOf, positive, refuse } from "./options.ts";
import { at, callSite } from "./site.ts";

/** Options of {@link lora}. */
export interface LoraOptions {
  /** Rows of A and columns of B. */
  readonly rank: number;
  /** The product of both is scaled by alpha / rank. Default twice the rank. */
  readonly alpha?: number;
  /** Matrices that get a pair, by the last part of their names. Default all linear layers of the transformer blocks. */
  readonly targets?: readonly Adaptable[];
  /** Folder with an adapter in the format of PEFT that training starts from. Default a new one, which changes nothing yet. */
  readonly from?: string;
}

/**
 * Low-rank adaptation (Hu et al. 2021): the checkpoint's weights W stay as they are, and pairs of small matrices A and B are trained,
 * y = x·Wᵀ + (alpha / rank) · (x·Aᵀ)·Bᵀ (eq. 3). A model so trained has gradients and optimizer states of the pairs alone, and a frozen
 * model of the same checkpoint in the same layout shares its weights. A value or reward head is trained as a whole.
 *
 * @throws RangeError that lists every option out of range
 * @example
 * ```ts
 * import { adamw, lora, models, policyModel } from "@baton/baton";
 *
 * const { actor, ref } = models({
 *   actor: policyModel("Qwen/Qwen3-0.6B", adamw({ lr: 1e-4 }), lora({ rank: 16 })),
 *   ref: policyModel("Qwen/Qwen3-0.6B"),
 * });
 * ```
 */
export function lora({ rank, alpha = 2 * rank, targets = ADAPTABLE, from }: LoraOptions): Lora {
  refuse(`make lora${at(callSite())}`, [
    positive("rank", rank, "whole"),
    positive("alpha", alpha),
    targets.length === 0 && "targets is empty, name at least one",
    ...targets.map((target) => oneOf("a target", target, ADAPTABLE)),
    new Set(targets).size < targets.length && "targets names one twice",
    from === "" && "from is empty, give the folder of an adapter",
  ]);
  // One order, whatever the script's: plans and checkpoints do not depend on it.
  const inOrder = ADAPTABLE.filter((target) => targets.includes(target));
  return { rank, alpha, targets: inOrder, ...(from !== undefined && { from }) };
}
