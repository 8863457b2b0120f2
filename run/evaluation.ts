/** What a held-out evaluation says: the reward with its error, diversity and length of the responses, and the responses. */
import type { CallGraph, GenerateCall } from "../ir/graph.ts";
import type { Batch } from "../engine/batch.ts";
import { distinct2, divergence, type Estimate, estimate } from "../engine/stats.ts";

export interface EvaluatedSample {
  readonly prompt: string;
  readonly response: string;
  readonly reward: number;
}

/** How the responses look to the reference model. */
export interface ReferenceFigures {
  /** KL(policy ‖ reference), estimates k1 and k3. */
  readonly klK1: number;
  readonly klK3: number;
  /** Mean negative log-likelihood of the responses: whether they still read like the reference's own. */
  readonly loss: number;
}

export interface Evaluation {
  readonly sequences: number;
  /** Every per-sequence field that the evaluation computed ("rewards", "length"), by name. */
  readonly fields: Readonly<Record<string, Estimate>>;
  /** Distinct bigrams over all bigrams of the responses. */
  readonly distinct2: number;
  /** Against the reference, when the flow infers another policy's log-probabilities; nats per token. */
  readonly reference: ReferenceFigures | null;
  readonly samples: readonly EvaluatedSample[];
}

export function evaluationOf(graph: CallGraph, batches: readonly Batch[]): Evaluation {
  const generate = graph.calls.find((c): c is GenerateCall => c.kind === "generate");
  const fields: Record<string, Estimate> = {},
    texts = batches.flatMap((b) => b.texts.get(generate?.writes.response ?? "") ?? []);
  const numbers = (name: string) =>
    batches.flatMap((b) => {
      const column = b.numbers.get(name);
      return column && column.per === "sequence" ? [...column.values] : [];
    });
  for (const [name, type] of Object.entries(graph.fields)) {
    if (type.per === "sequence" && type.dtype === "f32" && !(name in graph.source.fields)) {
      fields[name] = estimate(numbers(name));
    }
  }
  const prompts = batches.flatMap((b) => b.texts.get("prompt") ?? []), rewards = numbers("rewards");
  return {
    sequences: batches.reduce((n, b) => n + b.sequences, 0),
    fields,
    distinct2: distinct2(texts),
    reference: referenceFigures(graph, generate, batches),
    samples: texts.map((response, i) => ({ prompt: prompts[i] ?? "", response, reward: rewards[i] ?? NaN })),
  };
}

function referenceFigures(
  graph: CallGraph,
  generate: GenerateCall | undefined,
  batches: readonly Batch[],
): ReferenceFigures | null {
  const reference = graph.calls.find((c) =>
    c.kind === "infer" && c.model !== generate?.model && "logprobs" in c.writes
  );
  if (!generate?.writes.logprobs || !reference) return null;
  const rows = (field: string) =>
    batches.flatMap((b) => {
      const column = b.numbersOf(field);
      return column.per === "token" ? column.values : [];
    });
  const theirs = rows(reference.writes.logprobs!), tokens = theirs.reduce((n, r) => n + r.length, 0);
  const sum = theirs.reduce((n, r) => n + r.reduce((m, x) => m + x, 0), 0);
  return { ...divergence(rows(generate.writes.logprobs), theirs), loss: -sum / tokens };
}
