/** What of a step may run before the step is asked for. */
import type { CallGraph } from "./graph.ts";
import type { Schedule } from "./plan.ts";

/**
 * Positions in `schedule.step` of generation from the data set's own fields, and of the reallocations around it: they wait for
 * what they need only. Everything else of a step waits until the whole step before it is done.
 */
export function earlyInstructions({ step, replicas }: Schedule, graph: CallGraph): ReadonlySet<number> {
  const early = new Set<number>();
  step.forEach((a, i) => {
    if (a.op === "run") {
      const call = graph.calls.find((c) => c.id === a.call)!;
      const given = Object.values(call.reads).every((field) => field in graph.source.fields);
      if (call.kind !== "generate" || !given) return;
    }
    // A checkpoint between the steps has the weights that the step's own generation samples from.
    if (a.op === "reallocate" && replicas[a.to]!.lag > 0) return;
    if (a.after.every((j) => early.has(j))) early.add(i);
  });
  return early;
}
