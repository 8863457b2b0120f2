/** Bytes that every rank of every replica holds of its own. */
import { shardsOf } from "../compiler/layout.ts";
import type { ModelConfig } from "../compiler/models/config.ts";
import { type HeldBytes, heldBytes, mayShare, samePiece } from "../compiler/sharing.ts";
import type { Head } from "../ir/graph.ts";
import { coordinatesOf, devicesOf } from "../ir/mesh.ts";
import type { Cluster, Replica, ReplicaSpec } from "../ir/plan.ts";

/** What the memory of a model depends on. */
export interface ModelMemory {
  readonly config: ModelConfig;
  readonly head: Head;
  readonly trained: boolean;
  /** Bytes of its rotary table. */
  readonly constants: number;
}

/** By rank; nothing where a replica uses its home's memory. */
export function heldByReplica(
  specs: Readonly<Record<Replica, ReplicaSpec>>,
  models: Readonly<Record<string, ModelMemory>>,
  cluster: Pick<Cluster, "devicesPerNode">,
): Readonly<Record<Replica, readonly HeldBytes[]>> {
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
      return [
        name,
        ranksOf(spec).map(({ device, at, shard }): HeldBytes => {
          const shared = there.some((other) => other.device === device && samePiece(other.shard, shard));
          const bytes = heldBytes(shard, spec, at.dp, spec.home && models[spec.model]!.trained);
          return shared ? { ...bytes, params: 0 } : bytes;
        }),
      ];
    }),
  );
}
