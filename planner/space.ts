/** Points of the search space: which candidate every unit uses and where, and which models wait in host memory. */
import { meshOf } from "../ir/notation.ts";
import type { Assignment, Cluster, DeviceMesh, ExecutionPlan } from "../ir/plan.ts";
import type { CostInput } from "./call_cost.ts";
import type { Candidate, Unit } from "./candidates.ts";

/** One unit's part of a point. */
export interface Choice {
  readonly candidate: Candidate;
  /** First device of its mesh. */
  readonly first: number;
}

/** A plan as the search sees it. */
export interface Point {
  /** By unit. */
  readonly choices: readonly Choice[];
  /** Models whose home is in host memory between uses. */
  readonly offloaded: readonly string[];
}

/** The mesh of a choice. */
export const meshAt = (
  { candidate: { mesh }, first }: Choice,
  cluster: Pick<Cluster, "devicesPerNode">,
): DeviceMesh => meshOf({ from: first, to: first + mesh.nodes * mesh.devices - 1 }, cluster);

/** Device beyond the last one. */
export const endOf = ({ candidate: { mesh }, first }: Choice): number => first + mesh.nodes * mesh.devices;

export const overlap = (a: Choice, b: Choice): boolean => a.first < endOf(b) && b.first < endOf(a);

/** The assignments of a point; what offloads is decided by model, for copies of one layout have to agree. */
export function assignmentsOf(
  units: readonly Unit[],
  { choices, offloaded }: Point,
  cluster: Pick<Cluster, "devicesPerNode">,
): Record<string, Assignment> {
  return Object.fromEntries(units.flatMap((unit, i) => {
    const choice = choices[i]!, { strategy, microBatchTokens, zero, recompute } = choice.candidate;
    const mesh = meshAt(choice, cluster), offload = offloaded.includes(unit.model);
    const assignment: Assignment = { mesh, strategy, microBatchTokens, zero, recompute, offload };
    return unit.calls.map((call): [string, Assignment] => [call.id, assignment]);
  }));
}

/** @param digest of the graph */
export const planOf = (
  { cluster }: Pick<CostInput, "cluster">,
  digest: string,
  units: readonly Unit[],
  point: Point,
): ExecutionPlan => ({
  version: 1,
  graph: digest,
  cluster,
  assignments: assignmentsOf(units, point, cluster),
});
