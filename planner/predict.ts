/** What a plan that is given, and was not searched for, comes to under the cost model. */
import type { Assignment, ExecutionPlan } from "../ir/plan.ts";
import type { CallLayout, CostInput } from "./call_cost.ts";
import { type Candidate, Candidates, PAGES, type Unit, unitsOf } from "./candidates.ts";
import { Costs } from "./cost.ts";
import { type Evaluation, Evaluator, homeOf } from "./evaluate.ts";
import type { Choice, Point } from "./space.ts";

/** A plan with its seconds and bytes. */
export interface Predicted {
  readonly units: readonly Unit[];
  readonly point: Point;
  readonly evaluation: Evaluation;
  /** Seconds of every call, those of the host included. */
  readonly calls: Readonly<Record<string, number>>;
}

/**
 * @param plan of the graph and the cluster of `input`, which passed its check
 * @example
 * ```ts
 * import type { CostInput } from "./call_cost.ts";
 * import type { ExecutionPlan } from "../ir/plan.ts";
 * import { predict } from "./predict.ts";
 *
 * const seconds = (input: CostInput, plan: ExecutionPlan) => predict(input, plan).evaluation.period;
 * ```
 */
export function predict(input: CostInput, plan: ExecutionPlan): Predicted {
  const units = unitsOf(input), costs = new Costs(input), evaluator = new Evaluator(input, units, costs);
  // A plan file leaves KV pages to the memory that there is: most first.
  const candidates = new Candidates(costs),
    points = PAGES.map((p) => pointOf(units, costs, candidates, plan, p));
  const fits = (p: Point) => evaluator.fullest(p).total <= input.cluster.memoryBytes;
  const point = points.find(fits) ?? points[0]!, evaluation = evaluator.of(point);
  // As long as they take in the schedule: beside others, where devices share processors; in every round of a refill.
  const calls: Record<string, number> = {};
  evaluation.schedule.step.forEach((i, at) => {
    const { begin, end } = evaluation.spans[at]!;
    if (i.op === "run") calls[i.call] = (calls[i.call] ?? 0) + end - begin;
  });
  return { units, point, evaluation, calls };
}

function pointOf(
  units: readonly Unit[],
  costs: Costs,
  candidates: Candidates,
  { assignments, cluster: { devicesPerNode } }: ExecutionPlan,
  pages: number,
): Point {
  const choices = units.map((unit): Choice => {
    const layouts = unit.calls.map((c) => layoutOf(assignments[c.id]!, c.kind === "generate" ? pages : 1));
    const made = candidates.candidate(unit, layouts[0]!);
    // Train calls of one model share a layout; micro-batches and recomputation are each one's own.
    const own = unit.calls.map((call, i) => costs.of(call, layouts[i]!));
    const candidate: Candidate = { ...made, costs: own, seconds: own.reduce((n, c) => n + c.seconds, 0) };
    const { mesh } = assignments[unit.id]!;
    return { candidate, first: mesh.node * devicesPerNode + mesh.device };
  });
  const offloaded = [...new Set(units.map((u) => u.model))].filter((model) =>
    assignments[units[homeOf(units, model)]!.id]!.offload
  );
  return { choices, offloaded: offloaded.sort() };
}

const layoutOf = (a: Assignment, pages: number): CallLayout => ({
  mesh: { nodes: a.mesh.nodes, devices: a.mesh.devices },
  strategy: a.strategy,
  microBatchTokens: a.microBatchTokens,
  zero: a.zero,
  recompute: a.recompute,
  pages,
});
