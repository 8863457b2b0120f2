/** What a step's fields say: rewards, divergence from the reference, lengths, value fit. All from data already on the host. */
import type { CallGraph, GenerateCall, InferCall } from "../ir/graph.ts";
import type { Batch } from "./batch.ts";

export interface Estimate {
  readonly mean: number;
  /** Standard error of the mean. */
  readonly error: number;
}

export function estimate(values: ArrayLike<number>): Estimate {
  const n = values.length;
  let sum = 0, squares = 0;
  for (let i = 0; i < n; i++) sum += values[i]!;
  const mean = sum / n;
  for (let i = 0; i < n; i++) squares += (values[i]! - mean) ** 2;
  return { mean, error: n > 1 ? Math.sqrt(squares / (n - 1) / n) : 0 };
}

/** Metrics of one step by name; only those whose fields the workflow has. */
export function stepMetrics(graph: CallGraph, batch: Batch): Record<string, number> {
  const metrics: Record<string, number> = {};
  const rewards = batch.numbers.get("rewards");
  if (rewards && rewards.per === "sequence") {
    const { mean, error } = estimate(rewards.values);
    metrics.reward = mean;
    metrics.rewardError = error;
  }
  const generate = graph.calls.find((c): c is GenerateCall => c.kind === "generate");
  if (generate) Object.assign(metrics, rolloutMetrics(graph, generate, batch));
  const values = batch.numbers.get("values"), returns = batch.numbers.get("returns");
  if (values?.per === "token" && returns?.per === "token") {
    metrics.explainedVariance = explainedVariance(values.values, returns.values);
  }
  return metrics;
}

function rolloutMetrics(graph: CallGraph, generate: GenerateCall, batch: Batch): Record<string, number> {
  const metrics: Record<string, number> = {};
  const column = batch.tokens.get(generate.writes.tokens!);
  if (!column) return metrics;
  const lengths = column.actions.map((a) => a.length);
  metrics.length = estimate(lengths).mean;
  const finished = generate.writes.finished && batch.numbers.get(generate.writes.finished);
  if (finished && finished.per === "sequence") metrics.truncated = 1 - estimate(finished.values).mean;
  const reference = graph.calls.find((c): c is InferCall =>
    c.kind === "infer" && c.model !== generate.model && "logprobs" in c.writes &&
    c.reads.tokens === generate.writes.tokens
  );
  const sampled = generate.writes.logprobs && batch.numbers.get(generate.writes.logprobs);
  const ref = reference && batch.numbers.get(reference.writes.logprobs!);
  if (sampled && ref && sampled.per === "token" && ref.per === "token") {
    Object.assign(metrics, divergence(sampled.values, ref.values));
  }
  return metrics;
}

/**
 * Kullback–Leibler divergence of the policy from the reference per token, estimated on the policy's samples
 * (Schulman, "Approximating KL divergence", 2020): k1 = −log r, k3 = r − 1 − log r with r = p_ref / p.
 */
export function divergence(
  policy: readonly Float32Array[],
  reference: readonly Float32Array[],
): { klK1: number; klK3: number } {
  let k1 = 0, k3 = 0, n = 0;
  policy.forEach((p, s) => {
    for (let i = 0; i < p.length; i++, n++) {
      const logRatio = reference[s]![i]! - p[i]!;
      k1 -= logRatio;
      k3 += Math.exp(logRatio) - 1 - logRatio;
    }
  });
  return { klK1: k1 / n, klK3: k3 / n };
}

/** 1 − Var(returns − values) / Var(returns). */
export function explainedVariance(values: readonly Float32Array[], returns: readonly Float32Array[]): number {
  const variance = (of: (s: number, i: number) => number) => {
    let sum = 0, squares = 0, n = 0;
    returns.forEach((r, s) => {
      for (let i = 0; i < r.length; i++, n++) {
        const x = of(s, i);
        sum += x;
        squares += x * x;
      }
    });
    return squares / n - (sum / n) ** 2;
  };
  const total = variance((s, i) => returns[s]![i]!);
  return total > 0 ? 1 - variance((s, i) => returns[s]![i]! - values[s]![i]!) / total : 0;
}

/** Distinct bigrams over all bigrams of some texts (Li et al. 2016), by white-space separated words. */
export function distinct2(texts: readonly string[]): number {
  const seen = new Set<string>();
  let all = 0;
  for (const text of texts) {
    const words = text.trim().split(/\s+/);
    for (let i = 0; i + 1 < words.length; i++, all++) seen.add(`${words[i]} ${words[i + 1]}`);
  }
  return all ? seen.size / all : 0;
}
