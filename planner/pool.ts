/** Memory that replicas have in turn: each from what makes it to what frees it, as buffers have it inside a program. */
import { placeInGaps } from "../compiler/placement.ts";
import { devicesOf } from "../ir/mesh.ts";
import type { Cluster, Replica, Schedule } from "../ir/plan.ts";

export interface Pool {
  readonly bytes: number;
  /** Bytes from the pool's beginning. */
  readonly offsets: ReadonlyMap<Replica, number>;
}

/**
 * One pool for every device. A replica has one place in it for all schedules (the step's, the evaluation's), so two that are
 * alive together in any of them do not overlap.
 *
 * @param bytes of a rank of a replica
 * @param only these devices; all by default
 */
export function poolOf(
  schedules: readonly Schedule[],
  cluster: Pick<Cluster, "devicesPerNode">,
  bytes: (name: Replica, rank: number) => number,
  only?: readonly number[],
): Map<number, Pool> {
  const pools = new Map<number, Pool>(), { replicas } = schedules[0]!;
  const pooled = Object.entries(replicas).filter(([, spec]) => spec.residence === "pool");
  const spans = new Map(pooled.map(([name]) => [name, schedules.map((s) => lifetime(s, name))]));
  const meshes = new Map(pooled.map(([name, spec]) => [name, devicesOf(spec.mesh, cluster)]));
  const devices = only ?? new Set([...meshes.values()].flat());
  for (const device of devices) {
    const here = pooled.flatMap(([name]) => {
      const rank = device - meshes.get(name)![0]!, has = rank < meshes.get(name)!.length;
      return rank < 0 || !has ? [] : [{ name, bytes: bytes(name, rank), spans: spans.get(name)! }];
    });
    const together = (a: typeof here[number], b: typeof here[number]) =>
      a.spans.some((x, i) => {
        const y = b.spans[i]!;
        return x !== null && y !== null && x.start <= y.end && y.start <= x.end;
      });
    const largestFirst = here.map((_, i) => i).sort((i, j) => here[j]!.bytes - here[i]!.bytes || i - j);
    const { offsets, top } = placeInGaps(
      here.map((x) => x.bytes),
      largestFirst,
      (i, j) => together(here[i]!, here[j]!),
    );
    pools.set(device, { bytes: top, offsets: new Map(here.map((x, i) => [x.name, offsets[i]!])) });
  }
  return pools;
}

/** From the first to the last instruction of a step that touches the replica. */
function lifetime(
  schedule: Schedule,
  name: Replica,
): { readonly start: number; readonly end: number } | null {
  const at = schedule.step.flatMap((a, i) =>
    (a.op === "reallocate" ? a.from === name || a.to === name : a.replica === name) ? [i] : []
  );
  return at.length ? { start: at[0]!, end: at.at(-1)! } : null;
}
