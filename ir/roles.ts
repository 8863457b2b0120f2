/**
 * What the parts of a call graph are to each other: which generation is the one that is learned from, which model it is compared
 * with, which numbers are rewards. Siblings of a flow may be written in any order, so no role follows from a place in the list.
 */
import type { Call, CallGraph, GenerateCall, InferCall, TrainCall } from "./graph.ts";

/**
 * The generation whose samples its own model is trained on; where there is none, the one that writes the field `tokens`, else
 * the first.
 *
 * @param trained graph whose train calls decide: an evaluation trains nothing and follows its workflow's
 */
export function mainRollout(graph: CallGraph, trained: CallGraph = graph): GenerateCall | null {
  const generates = graph.calls.filter((c) => c.kind === "generate");
  const learned = new Set(
    trained.calls.flatMap((c) => c.kind === "train" ? [`${c.model} ${c.reads.tokens}`] : []),
  );
  return generates.find((c) => learned.has(`${c.model} ${c.writes.tokens}`)) ??
    generates.find((c) => c.writes.tokens === "tokens") ?? generates[0] ?? null;
}

/** The call that gives another model's log-probabilities of the rollout's tokens: a frozen model's before a trained one's. */
export function referenceOf(graph: CallGraph, rollout: GenerateCall): InferCall | null {
  const others = graph.calls.filter((c): c is InferCall =>
    c.kind === "infer" && c.model !== rollout.model && "logprobs" in c.writes &&
    c.reads.tokens === rollout.writes.tokens
  );
  return others.find((c) => graph.models[c.model]!.optimizer === null) ?? others[0] ?? null;
}

/** Fields that reward models and score functions write: one number per sequence each, in the order of the calls. */
export function rewardFields(graph: CallGraph): readonly string[] {
  return graph.calls.flatMap((c) =>
    c.kind === "score" || (c.kind === "infer" && "rewards" in c.writes) ? Object.values(c.writes) : []
  ).filter((field) => graph.fields[field]!.per === "sequence" && graph.fields[field]!.dtype === "f32");
}

/**
 * The field that says how good the rollout is: `rewards`, which is the language's own name for it, else the only reward field
 * that belongs to the rollout. Null where several claim to be it.
 */
export function rewardOf(graph: CallGraph, rollout: GenerateCall | null): string | null {
  const { rewards } = graph.fields;
  if (rewards?.per === "sequence" && rewards.dtype === "f32" && !("rewards" in graph.source.fields)) {
    return "rewards";
  }
  const other = new Set(
    graph.calls.flatMap((c) => c.kind === "generate" && c !== rollout ? Object.values(c.writes) : []),
  );
  const own = rewardFields(graph).filter((field) => {
    const call = graph.calls.find((c) => Object.values(c.writes).includes(field))!;
    return !Object.values(call.reads).some((read) => other.has(read));
  });
  return own.length === 1 ? own[0]! : null;
}

/** What a value model predicts: the recorded values of a train call, and the only other numbers per token that it reads. */
export interface Prediction {
  readonly call: TrainCall;
  readonly values: string;
  readonly returns: string;
}

/** Value models that are trained on values that they gave before. */
export function predictions(graph: CallGraph): readonly Prediction[] {
  return graph.calls.flatMap((call) => {
    if (call.kind !== "train" || graph.models[call.model]!.head !== "value") return [];
    const infer = graph.calls.find((c) =>
      c.kind === "infer" && c.model === call.model && c.reads.tokens === call.reads.tokens &&
      "values" in c.writes
    );
    const values = infer?.writes.values, { tokens: _, ...reads } = call.reads;
    if (values === undefined || !Object.values(reads).includes(values)) return [];
    const targets = Object.values(reads).filter((f) => f !== values && graph.fields[f]!.per === "token");
    return targets.length === 1 ? [{ call, values, returns: targets[0]! }] : [];
  });
}

/** Name of a train call in metrics: its model's, or its own where the model is trained more than once a step. */
export function trainName(graph: CallGraph, call: Call): string {
  if (call.kind !== "train") return call.id;
  const all = graph.calls.filter((c) => c.kind === "train" && c.model === call.model);
  return all.length === 1 ? call.model : call.id;
}
