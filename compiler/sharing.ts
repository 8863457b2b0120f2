/** What a rank of a replica holds, and where two replicas need only one copy. */
import type { ModelSpec } from "../ir/graph.ts";
import type { ReplicaSpec } from "../ir/plan.ts";
import { type LocalParameter, type Shard, trainedOf } from "./layout.ts";
import { gradientBytes, parameterBytes } from "./models/transformer.ts";
import { momentBytes } from "./zero.ts";

/** Bytes of one rank. */
export interface HeldBytes {
  readonly params: number;
  readonly grads: number;
  readonly moments: number;
}

/**
 * @param rank of the data-parallel group
 * @param trained whether the replica has gradients and optimizer states
 */
export const heldBytes = (
  shard: Shard,
  { strategy, zero }: Pick<ReplicaSpec, "strategy" | "zero">,
  rank: number,
  trained: boolean,
): HeldBytes => ({
  params: parameterBytes(shard.parameters),
  grads: trained ? gradientBytes(shard) : 0,
  moments: trained ? momentBytes(shard, { dp: strategy.dp, rank, zero }) : 0,
});

/** Whether a replica may use its home's memory where both have the same piece. One that lags keeps older weights than its home. */
export const mayShare = (spec: ReplicaSpec, home: ReplicaSpec | undefined): boolean =>
  !spec.home && spec.lag === 0 && home?.residence === "device";

/** The same parameters, cut alike, at the same offsets. */
export const samePiece = (a: Shard, b: Shard): boolean => a === b || alike(a.parameters, b.parameters, 0);

/** `behind`: how many bytes later those of a are. */
const alike = (a: readonly LocalParameter[], b: readonly LocalParameter[], behind: number): boolean =>
  a.length === b.length && a.every((p, i) => {
    const q = b[i]!;
    return p.name === q.name && p.dtype === q.dtype && p.offset === q.offset + behind &&
      p.slice?.dim === q.slice?.dim &&
      p.slice?.from === q.slice?.from && p.slice?.to === q.slice?.to;
  });

/**
 * For a frozen model, another one that trains an adapter beside the same checkpoint: where both are laid out alike, the frozen one needs no
 * memory of its own.
 */
export function baseModel(name: string, models: Readonly<Record<string, ModelSpec>>): string | undefined {
  const { optimizer, ema, checkpoint, head } = models[name]!;
  // The head of a value or reward model is trained as a whole.
  if (optimizer || ema || head !== "lm") return undefined;
  return Object.keys(models).find((other) => {
    const m = models[other]!;
    return m.lora && m.head === head && m.checkpoint === checkpoint;
  });
}

/** Whether the home of a frozen model may use the weights beside which another one's home trains an adapter. */
export const mayUseBase = (spec: ReplicaSpec, base: ReplicaSpec | undefined): boolean =>
  spec.home && spec.residence === "device" && base?.residence === "device";

/** Where in the parameters of a rank that trains an adapter those of a frozen model begin, in bytes; null where they are not there. */
export function baseOffset(adapted: Shard, frozen: Shard): number | null {
  const trained = trainedOf(adapted), offset = parameterBytes(trained);
  return alike(adapted.parameters.slice(trained.length), frozen.parameters, offset) ? offset : null;
}
