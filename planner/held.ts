/** Bytes that every rank of every replica holds of its own. */
import { shardsOf } from "../compiler/layout.ts";
import type { ModelConfig } from "../compiler/models/config.ts";
import {
  baseOffset,
  type HeldBytes,
  heldBytes,
  mayShare,
  mayUseBase,
  samePiece,
} from "../compiler/sharing.ts";
import type { Head } from "../ir/graph.ts";
import { coordinatesOf, devicesOf } from "../ir/mesh.ts";
import type { Cluster, Replica, ReplicaSpec } from "../ir/plan.ts";

/** What the memory of a model depends on. */
export interface ModelMemory {
  readonly config: ModelConfig;
  readonly head: Head;
  readonly trained: boolean;
  /** The model that trains an adapter beside its weights (`baseModel`). */
  readonly base?: string | undefined;
  /** Bytes of its rotary table. */
  readonly constants: number;
}

export interface Held extends HeldBytes {
  /** The model whose memory holds its parameters. */
  readonly base?: string;
}

/** By rank; no parameters where a replica uses its home's memory, or that of a model with an adapter. */
export function heldByReplica(
  specs: Readonly<Record<Replica, ReplicaSpec>>,
  models: Readonly<Record<string, ModelMemory>>,
  cluster: Pick<Cluster, "devicesPerNode">,
): Readonly<Record<Replica, readonly Held[]>> {
  const ranksOf = (spec: ReplicaSpec) => {
    const { config, head } = models[spec.model]!, shards = shardsOf(config, head, spec.strategy);
    return devicesOf(spec.mesh, cluster).map((device, rank) => {
      const at = coordinatesOf(spec.strategy, rank);
      return { device, at, shard: shards[at.stage]![at.tp]! };
    });
  };
  return Object.fromEntries(
    Object.entries(specs).map(([name, spec]) => {
      const home = specs[`${spec.model}@0`]!, there = mayShare(spec, home) ? ranksOf(home) : [];
      const { base } = models[spec.model]!, adapted = base === undefined ? undefined : specs[`${base}@0`];
      const below = adapted && mayUseBase(spec, adapted) ? ranksOf(adapted) : [];
      return [
        name,
        ranksOf(spec).map(({ device, at, shard }): Held => {
          const shared = there.some((other) => other.device === device && samePiece(other.shard, shard));
          const bytes = heldBytes(shard, spec, at.dp, spec.home && models[spec.model]!.trained);
          if (shared) return { ...bytes, params: 0 };
          const lies = (other: (typeof below)[number]) =>
            other.device === device && baseOffset(other.shard, shard) !== null;
          return below.some(lies) ? { ...bytes, params: 0, base: base! } : bytes;
        }),
      ];
    }),
  );
}
