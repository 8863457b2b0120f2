/** The plan for one device: every call on it, one layout, micro-batches that hold the longest sequence. */
import type { CallGraph } from "../ir/graph.ts";
import type { Assignment, Cluster, ExecutionPlan } from "../ir/plan.ts";

/** Micro-batches of about this many tokens keep products wide and activations small. */
const USUAL_TOKENS = 4096;

export interface SinglePlanInput {
  readonly graph: CallGraph;
  readonly digest: string;
  readonly cluster: Cluster;
  /** Tokens of the longest sequence, times the sequences that must stay together. */
  readonly longestBlock: number;
  /** Tokens of the longest sequence for models that read the text in a vocabulary of their own. */
  readonly reread?: Readonly<Record<string, number>>;
  /** Tokens of a whole step at most. */
  readonly stepTokens: number;
  readonly microBatchTokens?: number;
  readonly recompute?: Assignment["recompute"];
}

/** Every call on device 0 with dp = tp = pp = 1. */
export function planSingle(input: SinglePlanInput): ExecutionPlan {
  const wanted = input.microBatchTokens ?? Math.min(USUAL_TOKENS, input.stepTokens);
  const assignment = (longest: number): Assignment => ({
    mesh: { node: 0, nodes: 1, device: 0, devices: 1 },
    strategy: { dp: 1, tp: 1, pp: 1 },
    microBatchTokens: Math.max(wanted, longest),
    zero: 0,
    recompute: input.recompute ?? "nothing",
    offload: false,
  });
  const longest = (model: string | undefined) => input.reread?.[model ?? ""] ?? input.longestBlock;
  const placed = input.graph.calls.filter((c) => c.kind !== "score");
  return {
    version: 1,
    graph: input.digest,
    cluster: input.cluster,
    assignments: Object.fromEntries(
      placed.map((c) => [c.id, assignment(longest("model" in c ? c.model : undefined))]),
    ),
  };
}
