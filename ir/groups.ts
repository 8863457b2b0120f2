/** What a call finds along a graph: how many sequences share a prompt, what is stored with them, and which calls are repeated. */
import type { Call, CallGraph } from "./graph.ts";

/** Sequences of a prompt that `select` keeps. */
export const keptBy = (keep: number | "bestAndWorst"): number => keep === "bestAndWorst" ? 2 : keep;

/** Sequences of one prompt, or the two of a pair, that a step begins with. */
const firstGroup = ({ calls, source }: Pick<CallGraph, "source" | "calls">): number =>
  calls.find((c) => c.kind === "generate")?.sampling.samples ?? (source.kind === "pairs" ? 2 : 1);

/**
 * Sequences of one prompt, or the two of a pair, that a call finds.
 *
 * @param first those that the step begins with
 */
export function groupAt(
  graph: Pick<CallGraph, "source" | "calls">,
  call: Call,
  first: number = firstGroup(graph),
): number {
  const selected = graph.calls.slice(0, graph.calls.indexOf(call)).findLast((c) => c.kind === "select");
  return selected ? keptBy(selected.keep) : first;
}

/** Most kept tokens that are stored with every action of a token field; 0 where none are. */
export function keptWidth(graph: Pick<CallGraph, "calls">, tokens: string | undefined): number {
  const writer = graph.calls.find((c) => c.kind === "generate" && c.writes.tokens === tokens);
  return writer?.kind === "generate" && writer.sampling.keepSampledMask ? writer.sampling.topK : 0;
}

/** Whether the sequences that a call finds are preference pairs. */
export function pairsAt(graph: Pick<CallGraph, "source" | "calls">, call: Call): boolean {
  const before = graph.calls.slice(0, graph.calls.indexOf(call));
  const selected = before.findLast((c) => c.kind === "select");
  return selected ? selected.keep === "bestAndWorst" : graph.source.kind === "pairs";
}

/** The calls of a step in the order in which they run: a refill is preceded by all earlier calls, once for each of its rounds. */
export function unrolled(calls: readonly Call[]): readonly Call[] {
  const at = calls.findIndex((c) => c.kind === "refill"), refill = calls[at];
  if (refill?.kind !== "refill") return calls;
  const round = calls.slice(0, at + 1);
  return [...Array.from({ length: refill.maxRounds }, () => round).flat(), ...calls.slice(at + 1)];
}
