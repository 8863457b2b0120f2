/** Lowers a plan to what a device does, in order: load every replica once; every step run the calls. */
import { canonical } from "../ir/digest.ts";
import type { CallGraph } from "../ir/graph.ts";
import type { ExecutionPlan, Instruction, Schedule } from "../ir/plan.ts";

/**
 * One replica per model, so all calls of a model run where it lies. Fields are not freed: a step hands all of them to metrics,
 * samples and the caller of `steps`.
 *
 * @throws RangeError when two calls of a model have different devices or strategies
 */
export function scheduleOf(graph: CallGraph, plan: ExecutionPlan): Schedule {
  const places = new Map<string, { readonly id: string; readonly place: string }>();
  for (const call of graph.calls) {
    if (!("model" in call)) continue;
    const { mesh, strategy } = plan.assignments[call.id]!, place = canonical({ mesh, strategy });
    const first = places.get(call.model) ?? { id: call.id, place };
    if (first.place !== place) {
      throw new RangeError(
        `Cannot schedule ${graph.name}: ${first.id} and ${call.id} have "${call.model}" in two places, which needs ` +
          `parameter reallocation, and this version has none; give both calls one mesh and strategy`,
      );
    }
    places.set(call.model, first);
  }
  const prologue: Instruction[] = Object.keys(graph.models).map((model) => ({
    op: "load",
    replica: `${model}@0`,
    model,
  }));
  const step: Instruction[] = graph.calls.map((call) => ({
    op: "run",
    call: call.id,
    replica: "model" in call ? `${call.model}@0` : null,
  }));
  return { version: 1, prologue, step };
}
