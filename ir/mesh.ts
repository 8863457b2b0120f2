/** Device meshes and the place of every rank in one: pipeline stages outermost, tensor shards innermost (neighbours in a node). */
import type { Axis } from "./op.ts";
import type { Cluster, DeviceMesh, ParallelStrategy } from "./plan.ts";

/** Where a rank is in its mesh. */
export interface Coordinates {
  readonly stage: number;
  readonly dp: number;
  readonly tp: number;
}

/** Devices of a mesh by rank, numbered over the whole cluster: node × devicesPerNode + device. */
export function devicesOf(mesh: DeviceMesh, cluster: Pick<Cluster, "devicesPerNode">): number[] {
  return Array.from({ length: mesh.nodes * mesh.devices }, (_, i) => {
    const node = mesh.node + Math.floor(i / mesh.devices);
    return node * cluster.devicesPerNode + mesh.device + i % mesh.devices;
  });
}

/** Rank of coordinates in a mesh. */
export const rankOf = ({ dp, tp }: ParallelStrategy, at: Coordinates): number =>
  (at.stage * dp + at.dp) * tp + at.tp;

/** Coordinates of a rank: the inverse of {@link rankOf}. */
export const coordinatesOf = ({ dp, tp }: ParallelStrategy, rank: number): Coordinates => ({
  stage: Math.floor(rank / (dp * tp)),
  dp: Math.floor(rank / tp) % dp,
  tp: rank % tp,
});

/**
 * Ranks that meet on every axis on which a rank is not alone, itself included, in their order.
 *
 * @param kvReplicas ranks of a tensor-parallel group that hold the same key and value heads
 */
export function groupsOf(
  strategy: ParallelStrategy,
  kvReplicas: number,
  rank: number,
): { readonly axis: Axis; readonly members: readonly number[] }[] {
  const { dp, tp, pp } = strategy, at = coordinatesOf(strategy, rank), firstKv = at.tp - at.tp % kvReplicas;
  const line = (length: number, place: (i: number) => Partial<Coordinates>) =>
    Array.from({ length }, (_, i) => rankOf(strategy, { ...at, ...place(i) }));
  const atAnEnd = at.stage === 0 || at.stage === pp - 1;
  const all: { readonly axis: Axis; readonly members: number[] }[] = [
    { axis: "tp", members: line(tp, (i) => ({ tp: i })) },
    { axis: "kv", members: line(kvReplicas, (i) => ({ tp: firstKv + i })) },
    { axis: "tied", members: atAnEnd && pp > 1 ? line(2, (i) => ({ stage: i * (pp - 1) })) : [] },
    { axis: "dp", members: line(dp, (i) => ({ dp: i })) },
    { axis: "world", members: Array.from({ length: dp * tp * pp }, (_, i) => i) },
  ];
  return all.filter(({ members }) => members.length > 1);
}

/** "dp2·tp2·pp1": what differs from 1, or "dp1". */
export function printStrategy({ dp, tp, pp }: ParallelStrategy): string {
  const parts = Object.entries({ dp, tp, pp }).filter(([, n]) => n > 1).map(([axis, n]) => `${axis}${n}`);
  return parts.join("·") || "dp1";
}

/** "0", "0-3", "0-15": devices of a mesh for people. */
export function printDevices(mesh: DeviceMesh, cluster: Pick<Cluster, "devicesPerNode">): string {
  const all = devicesOf(mesh, cluster), first = all[0]!, last = all.at(-1)!;
  return first === last ? `${first}` : `${first}-${last}`;
}
