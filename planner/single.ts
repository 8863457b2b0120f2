/** The plan for one device: every call on it, one layout, micro-batches that hold what a call must keep together. */
import { keepsTogether } from "../compiler/expression.ts";
import type { CallGraph, ModelFunctionCall } from "../ir/graph.ts";
import type { Assignment, Cluster, ExecutionPlan } from "../ir/plan.ts";

/** Micro-batches of about this many tokens keep products wide and activations small. */
const USUAL_TOKENS = 4096;

export interface SinglePlanInput {
  readonly graph: CallGraph;
  readonly digest: string;
  readonly cluster: Cluster;
  /** Tokens of the longest sequence. */
  readonly longest: number;
  /** Sequences that share a prompt, or 2 for pairs: a loss may need all of them at once. */
  readonly group: number;
  /**
   * Tokens of the longest sequence, by model, for those that read the text in a vocabulary of their own. An estimate: their
   * micro-batches hold it whatever was wished for.
   */
  readonly reread?: Readonly<Record<string, number>>;
  /** Tokens of a whole step at most. */
  readonly stepTokens: number;
  /** What the user wishes; usual sizes otherwise. */
  readonly microBatchTokens?: number;
  readonly recompute?: Assignment["recompute"];
}

/**
 * Every call on device 0 with dp = tp = pp = 1.
 *
 * @throws RangeError that lists every call whose sequences a micro-batch of the wished size does not hold
 */
export function planSingle(input: SinglePlanInput): ExecutionPlan {
  const calls = input.graph.calls.filter((c): c is ModelFunctionCall => "model" in c);
  const { microBatchTokens: wanted = Math.min(USUAL_TOKENS, input.stepTokens), reread = {} } = input;
  const blocks = calls.map((call) => ({ call, sequences: together(call, input.group) }));
  const small = input.microBatchTokens === undefined
    ? []
    : blocks.filter(({ call, sequences }) => !(call.model in reread) && wanted < sequences * input.longest);
  if (small.length) {
    const list = small.map(({ call, sequences }) =>
      `${call.id} needs ${sequences * input.longest} for ${
        sequences === 1 ? "the longest sequence" : `${sequences} sequences that belong together`
      }`
    );
    throw new RangeError(
      `Cannot plan ${input.graph.name}: microBatchTokens is ${wanted} and ${
        list.join(", ")
      }, raise it or leave it out`,
    );
  }
  return {
    version: 1,
    graph: input.digest,
    cluster: input.cluster,
    assignments: Object.fromEntries(blocks.map(({ call, sequences }) => [call.id, {
      mesh: { node: 0, nodes: 1, device: 0, devices: 1 },
      strategy: { dp: 1, tp: 1, pp: 1 },
      microBatchTokens: Math.max(wanted, sequences * (reread[call.model] ?? input.longest)),
      zero: 0,
      recompute: input.recompute ?? "nothing",
      offload: false,
    }])),
  };
}

/** Sequences that must be in one micro-batch: only a loss that compares them asks for more than one (DESIGN §3.3). */
function together(call: ModelFunctionCall, group: number): number {
  if (call.kind !== "train") return 1;
  const scope = keepsTogether(call.loss);
  return scope === "sequence" ? 1 : scope === "pair" ? 2 : group;
}
