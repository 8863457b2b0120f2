/** The part of the specification about calls that change the step's batch: `select` and `refill`. */
import type { Call, CallGraph, RefillCall, SelectCall } from "./graph.ts";
import { groupAt, keptBy, pairsAt } from "./groups.ts";

/** What is known per sequence when `select` runs is narrowed; nothing later may bring whole groups back. */
export function selectViolations(call: SelectCall, graph: CallGraph): string[] {
  const at = graph.calls.indexOf(call),
    found: string[] = [],
    group = groupAt(graph, call),
    kept = keptBy(call.keep);
  if (pairsAt(graph, call)) found.push(`${call.id} selects from pairs, which belong together`);
  if (kept > group || !(Number.isInteger(kept) && kept > 0)) {
    found.push(`${call.id} keeps ${kept} of ${group} samples of a prompt, generate with more or keep fewer`);
  }
  found.push(...numberOfSequence(call, "by", graph));
  for (const later of graph.calls.slice(at + 1)) {
    if (later.kind === "generate") {
      found.push(`${later.id} generates after ${call.id} has selected, generate everything before`);
    }
  }
  return found;
}

/** Everything before a refill is repeated, so it may not have effects, and nothing of it is finished before. */
export function refillViolations(call: RefillCall, graph: CallGraph): string[] {
  const found: string[] = [], before = graph.calls.slice(0, graph.calls.indexOf(call));
  if (!(Number.isInteger(call.maxRounds) && call.maxRounds > 0)) {
    found.push(`${call.id} has maxRounds ${call.maxRounds}`);
  }
  found.push(...numberOfSequence(call, "until", graph));
  if (!before.some((c) => c.kind === "generate")) found.push(`${call.id} repeats no generation`);
  if (graph.source.kind !== "prompts") {
    found.push(`${call.id} needs other prompts, and the data are ${graph.source.kind}, use prompts()`);
  }
  for (const c of before) {
    if (c.kind === "train") found.push(`${c.id} trains in what ${call.id} repeats, train after it`);
    if (c.kind === "select" || c.kind === "refill") {
      found.push(`${c.id} is among what ${call.id} repeats, put it after`);
    }
    if (c.kind === "compute" && Object.keys(c.states).length) {
      found.push(`${c.id} writes a state in what ${call.id} repeats, write it after`);
    }
    // Every round would make another one, of its own prompts only.
    for (const field of Object.values(c.writes).filter((f) => graph.fields[f]?.per === "batch")) {
      found.push(`${c.id} writes "${field}" of the whole batch in what ${call.id} repeats, write it after`);
    }
  }
  return found;
}

function numberOfSequence(call: Call, port: string, graph: CallGraph): string[] {
  const type = graph.fields[call.reads[port] ?? ""];
  return type?.per === "sequence" && type.dtype === "f32"
    ? []
    : [`${call.id} decides by "${call.reads[port]}", which is no number per sequence`];
}
