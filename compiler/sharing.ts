/** What a rank of a replica holds, and where two replicas need only one copy. */
import type { ReplicaSpec } from "../ir/plan.ts";
import type { Shard } from "./layout.ts";
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
export const samePiece = (a: Shard, b: Shard): boolean =>
  a === b || a.parameters.length === b.parameters.length && a.parameters.every((p, i) => {
      const q = b.parameters[i]!;
      return p.name === q.name && p.offset === q.offset && p.slice?.dim === q.slice?.dim &&
        p.slice?.from === q.slice?.from && p.slice?.to === q.slice?.to;
    });
