/** What a held-out evaluation says: the reward with its error, diversity and length of the responses, and the responses. */
import type { CallGraph, GenerateCall } from "../ir/graph.ts";
import type { Batch } from "../engine/batch.ts";
import { distinct2, divergence, type Estimate, estimate } from "../engine/stats.ts";

export interface EvaluatedSample {
  readonly prompt: string;
  readonly response: string;
  readonly reward: number;
}

export interface Evaluation {
  readonly sequences: number;
  /** Every per-sequence field that the evaluation computed ("rewards", "length"), by name. */
  readonly fields: Readonly<Record<string, Estimate>>;
  /** Distinct bigrams over all bigrams of the responses. */
  readonly distinct2: number;
  /** Mean KL to the reference per token (k1, k3), when the flow infers another policy's log-probabilities. */
  readonly kl: { readonly klK1: number; readonly klK3: number } | null;
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
    kl: klOf(graph, generate, batches),
    samples: texts.map((response, i) => ({ prompt: prompts[i] ?? "", response, reward: rewards[i] ?? NaN })),
  };
}

function klOf(
  graph: CallGraph,
  generate: GenerateCall | undefined,
  batches: readonly Batch[],
): Evaluation["kl"] {
  const reference = graph.calls.find((c) =>
    c.kind === "infer" && c.model !== generate?.model && "logprobs" in c.writes
  );
  if (!generate?.writes.logprobs || !reference) return null;
  const rows = (field: string) =>
    batches.flatMap((b) => {
      const column = b.numbersOf(field);
      return column.per === "token" ? column.values : [];
    });
  return divergence(rows(generate.writes.logprobs), rows(reference.writes.logprobs!));
}
