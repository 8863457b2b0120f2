/** Fills in what a plan does not say: micro-batches that keep devices busy and hold what a call must keep together. */
import { together } from "../compiler/sizes.ts";
import type { CallGraph, ModelFunctionCall } from "../ir/graph.ts";
import type { Assignment, Cluster, DeviceMesh, ExecutionPlan, ParallelStrategy } from "../ir/plan.ts";

/** Micro-batches of about this many tokens keep products wide and activations small. */
const USUAL_TOKENS = 4096;
/** Micro-batches per pipeline stage: with fewer, stages wait for one another most of the time (Huang et al. 2019). */
const PER_STAGE = 2;

/** Where a call runs, and what is wished for it. */
export interface Layout {
  readonly mesh: DeviceMesh;
  readonly strategy: ParallelStrategy;
  readonly microBatchTokens?: number;
  readonly zero?: Assignment["zero"];
  readonly recompute?: Assignment["recompute"];
  readonly offload?: boolean;
}

/** What a step holds at most. */
export interface PlanSizes {
  /** Sequences in a step: prompts × samples, conversations, or 2 × pairs. */
  readonly sequences: number;
  /** Sequences that share a prompt, or 2 for pairs: a loss may need all of them at once. */
  readonly group: number;
  /** Tokens of the longest sequence. */
  readonly longest: number;
}

/** A plan in which only layouts are decided. */
export interface Draft {
  readonly graph: CallGraph;
  readonly digest: string;
  readonly cluster: Cluster;
  readonly sizes: PlanSizes;
  /** By call; calls of other graphs stay for the plan's check to find. */
  readonly layouts: Readonly<Record<string, Layout>>;
  /**
   * Tokens of the longest sequence, by model, for those that read the text in a vocabulary of their own. An estimate: their
   * micro-batches hold it whatever was wished for.
   */
  readonly reread?: Readonly<Record<string, number>>;
  /** What the user wishes for all calls; usual sizes otherwise. */
  readonly microBatchTokens?: number;
  readonly recompute?: Assignment["recompute"];
}

/** The whole plan. Whether it can be run is for its check to say. */
export function completePlan(draft: Draft): ExecutionPlan {
  const assignments = Object.entries(draft.layouts).map(([id, layout]): [string, Assignment] => [id, {
    mesh: layout.mesh,
    strategy: layout.strategy,
    microBatchTokens: microBatchTokens(draft, id, layout),
    zero: layout.zero ?? 0,
    recompute: layout.recompute ?? draft.recompute ?? "nothing",
    offload: layout.offload ?? false,
  }]);
  return {
    version: 1,
    graph: draft.digest,
    cluster: draft.cluster,
    assignments: Object.fromEntries(assignments),
  };
}

/** Tokens that one data-parallel rank takes at once. */
function microBatchTokens(draft: Draft, id: string, layout: Layout): number {
  const { sizes, reread = {} } = draft, wish = layout.microBatchTokens ?? draft.microBatchTokens;
  const call = draft.graph.calls.find((c): c is ModelFunctionCall => c.id === id && "model" in c);
  if (!call) return wish ?? USUAL_TOKENS;
  const own = reread[call.model], least = together(call, sizes.group) * (own ?? sizes.longest);
  if (wish !== undefined) return own === undefined ? wish : Math.max(wish, least);
  const { dp, pp } = layout.strategy;
  const parts = pp === 1 ? dp : dp * pp * PER_STAGE * (call.kind === "train" ? call.minibatches : 1);
  return Math.max(least, Math.min(USUAL_TOKENS, sizes.longest * Math.ceil(sizes.sequences / parts)));
}
