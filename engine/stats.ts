/** What a step's fields say: rewards, divergence from the reference, lengths, value fit. All from data already on the host. */
import type { Call, CallGraph, GenerateCall } from "../ir/graph.ts";
import { mainRollout, predictions, referenceOf, rewardFields, rewardOf, trainName } from "../ir/roles.ts";
import type { Batch } from "./batch.ts";

export interface Estimate {
  readonly mean: number;
  /** Standard error of the mean. */
  readonly error: number;
}

/**
 * Mean and its standard error.
 *
 * @param group neighbours that are no independent draws, such as the samples of one prompt: the error is that of the mean
 *   over groups
 */
export function estimate(values: ArrayLike<number>, group = 1): Estimate {
  const n = values.length / group, means = new Float64Array(n);
  for (let i = 0; i < values.length; i++) means[Math.floor(i / group)]! += values[i]! / group;
  const mean = means.reduce((sum, x) => sum + x, 0) / n;
  const squares = means.reduce((sum, x) => sum + (x - mean) ** 2, 0);
  return { mean, error: n > 1 ? Math.sqrt(squares / (n - 1) / n) : 0 };
}

/** Metrics of one step by name; only those whose fields the workflow has. */
export function stepMetrics(graph: CallGraph, batch: Batch): Record<string, number> {
  const rollout = mainRollout(graph), metrics: Record<string, number> = {};
  const add = (name: string, field: string) => {
    const column = batch.numbers.get(field);
    if (column?.per !== "sequence") return;
    const { mean, error } = estimate(column.values, batch.group);
    metrics[name] = mean;
    metrics[`${name}Error`] = error;
  };
  const reward = rewardOf(graph, rollout), rewards = rewardFields(graph);
  if (reward !== null) add("reward", reward);
  // One that is the reward itself is not shown twice.
  if (rewards.some((field) => field !== reward)) rewards.forEach((field) => add(`reward/${field}`, field));
  if (rollout) Object.assign(metrics, rolloutMetrics(graph, rollout, batch));
  const lag = batch.numbers.get("lag");
  if (lag?.per === "sequence") metrics.lag = estimate(lag.values).mean;
  const predicted = predictions(graph);
  for (const { call, values, returns } of predicted) {
    const v = batch.numbers.get(values), r = batch.numbers.get(returns);
    if (v?.per !== "token" || r?.per !== "token") continue;
    const name = predicted.length === 1 ? "explainedVariance" : `${call.id}/explainedVariance`;
    metrics[name] = explainedVariance(v.values, r.values);
  }
  return metrics;
}

/** Largest difference between the log-probabilities recorded when sampling and those of the first training pass. */
const PARITY = "parity/max_abs";

/** Adds a call's own metrics under its name; parity is the step's own, the worst where several policies sampled. */
export function addCallMetrics(
  metrics: Record<string, number>,
  graph: CallGraph,
  call: Call,
  said: Readonly<Record<string, number>>,
): void {
  const { parity, ...others } = said;
  if (parity !== undefined) metrics[PARITY] = Math.max(metrics[PARITY] ?? 0, parity);
  for (const [name, value] of Object.entries(others)) metrics[`${trainName(graph, call)}/${name}`] = value;
}

function rolloutMetrics(graph: CallGraph, rollout: GenerateCall, batch: Batch): Record<string, number> {
  const metrics: Record<string, number> = {};
  const column = batch.tokens.get(rollout.writes.tokens ?? "");
  if (!column) return metrics;
  metrics.length = estimate(column.actions.map((a) => a.length)).mean;
  const finished = batch.numbers.get(rollout.writes.finished ?? "");
  if (finished?.per === "sequence") metrics.truncated = 1 - estimate(finished.values).mean;
  const sampled = batch.numbers.get(rollout.writes.logprobs ?? "");
  if (sampled?.per !== "token") return metrics;
  // −log p of a sample is an unbiased estimate of the entropy of what it was drawn from; greedy tokens are drawn from nothing.
  if (rollout.sampling.temperature > 0) metrics.entropy = -meanOf(sampled.values);
  const reference = referenceOf(graph, rollout);
  const ref = reference && batch.numbers.get(reference.writes.logprobs!);
  if (ref?.per === "token") Object.assign(metrics, divergence(sampled.values, ref.values));
  return metrics;
}

/** Mean over all tokens of all sequences. */
export function meanOf(rows: readonly Float32Array[]): number {
  let sum = 0, n = 0;
  for (const row of rows) {
    for (const x of row) sum += x;
    n += row.length;
  }
  return sum / n;
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
