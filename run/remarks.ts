/** What a workflow may do and its author should know: said once, at the start of a run. */
import type { CallGraph, GenerateCall } from "../ir/graph.ts";

/**
 * Remarks on a graph. Truncated sampling biases ratios: a sample comes from the renormalized distribution over the tokens
 * that top-k and top-p keep, and its recorded log-probabilities, like those of training, are of the whole distribution.
 */
export function remarks(graph: CallGraph): string[] {
  const cut = graph.calls.filter((c): c is GenerateCall =>
    c.kind === "generate" && (c.sampling.topK > 0 || c.sampling.topP < 1) && !c.sampling.keepSampledMask
  );
  return cut.flatMap((call) => {
    const trained = graph.calls.find((c) =>
      c.kind === "train" && c.model === call.model && c.reads.tokens === call.writes.tokens
    );
    return trained
      ? [
        `note: ${call.id} samples with ${
          call.sampling.topK > 0 ? `topK ${call.sampling.topK}` : `topP ${call.sampling.topP}`
        } and ${trained.id} learns from its samples: ratios are biased, say keepSampledMask, or leave topK and topP out where you train`,
      ]
      : [];
  });
}
