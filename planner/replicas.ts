/** Which copies of a model's parameters a plan needs: one for each layout that its calls have. */
import { canonical } from "../ir/digest.ts";
import type { CallGraph, ModelFunctionCall } from "../ir/graph.ts";
import type { Assignment, ExecutionPlan, Replica, ReplicaSpec } from "../ir/plan.ts";

/** A graph of a run with its plan: the step's first, then the evaluation's. */
export interface Placed {
  readonly graph: CallGraph;
  readonly plan: ExecutionPlan;
}

export interface Replicas {
  readonly specs: Readonly<Record<Replica, ReplicaSpec>>;
  /** The copy that a call of a graph runs on. */
  readonly of: (placed: Placed, call: ModelFunctionCall) => Replica;
}

const layout = ({ mesh, strategy }: Assignment): string => canonical({ mesh, strategy });

/**
 * Versions that the weights of a call may be behind: `maxLag` counts steps, and each makes as many as the model has train calls.
 * Generation that may lag has weights of its own, which stay as they are while newer ones are trained elsewhere. An evaluation
 * looks at what has been trained.
 */
function lagOf(call: ModelFunctionCall, { graph }: Placed, isEvaluation: boolean): number {
  if (call.kind !== "generate" || isEvaluation) return 0;
  return call.sampling.maxLag *
    graph.calls.filter((c) => c.kind === "train" && c.model === call.model).length;
}

/**
 * The home of a trained model is where it trains; that of a frozen one where it is used first. Calls with one layout share a
 * copy. A copy that is no home lives from its reallocation to its last use in a step.
 */
export function replicasOf(graphs: readonly Placed[]): Replicas {
  const specs: Record<Replica, ReplicaSpec> = {}, names = new Map<string, Replica>();
  const models = new Set(graphs.flatMap(({ graph }) => Object.keys(graph.models)));
  for (const model of models) {
    const uses = graphs.flatMap((placed) =>
      placed.graph.calls.filter((c): c is ModelFunctionCall => "model" in c && c.model === model)
        .map((call) => ({
          call,
          assignment: placed.plan.assignments[call.id]!,
          lag: lagOf(call, placed, placed !== graphs[0]),
        }))
    );
    const home = uses.find(({ call }) => call.kind === "train") ?? uses[0];
    if (!home) continue;
    const ordered = [home, ...uses.filter((use) => use !== home)];
    for (const { call, assignment, lag: mayLag } of ordered) {
      const key = keyOf(model, mayLag, assignment, home.assignment);
      if (names.has(key)) continue;
      const name = `${model}@${Object.values(specs).filter((s) => s.model === model).length}`;
      const isHome = call === home.call, lag = isHome ? 0 : mayLag;
      names.set(key, name);
      specs[name] = {
        model,
        mesh: assignment.mesh,
        strategy: assignment.strategy,
        zero: isHome ? assignment.zero : 0,
        home: isHome,
        residence: lag > 0 || (isHome && !assignment.offload) ? "device" : "pool",
        lag,
      };
    }
    names.set(`${model} home`, `${model}@0`);
  }
  const homeOf = (model: string) => specs[`${model}@0`]!;
  return {
    specs,
    of: (placed, call) => {
      const lag = lagOf(call, placed, placed !== graphs[0]);
      return names.get(keyOf(call.model, lag, placed.plan.assignments[call.id]!, homeOf(call.model)))!;
    },
  };
}

function keyOf(
  model: string,
  lag: number,
  assignment: Assignment,
  home: Pick<Assignment, "mesh" | "strategy">,
): string {
  const own = layout(assignment), atHome = own === canonical({ mesh: home.mesh, strategy: home.strategy });
  return `${model} ${own}${!atHome && lag > 0 ? " lagging" : ""}`;
}
