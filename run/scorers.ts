/** Chooses where each score call runs: in a worker when the script can be imported again, else on the main thread. */
import type { Workflow } from "../dsl/workflow.ts";
import { digest } from "../ir/digest.ts";
import type { CallGraph } from "../ir/graph.ts";
import { mainThreadScorer, type Scorer } from "../engine/score.ts";
import { startScoreWorker } from "./score_workers.ts";

export interface Scorers {
  readonly of: (graph: CallGraph) => ReadonlyMap<string, Scorer>;
  dispose(): void;
}

export async function scorersOf(
  workflow: Workflow,
  o: { readonly script: string | null; readonly scoreSeconds: number; readonly note: (line: string) => void },
): Promise<Scorers> {
  const none = Object.keys(workflow.scores).length === 0;
  const worker = none
    ? "there is nothing to score"
    : o.script === null
    ? "the workflow belongs to no script"
    : await startScoreWorker(o.script, digest(workflow.graph), o.scoreSeconds);
  if (!none && typeof worker === "string") {
    o.note(`score functions run on the main thread, where only their awaits have a deadline: ${worker}`);
  }
  return {
    of: (graph) =>
      new Map(
        graph.calls.filter((c) => c.kind === "score").map((c) => [
          c.id,
          typeof worker === "string"
            ? mainThreadScorer(workflow.scores[c.id]!, o.scoreSeconds)
            : worker.scorer,
        ]),
      ),
    dispose: () => {
      if (typeof worker !== "string") worker.dispose();
    },
  };
}
