/** Runs a select call: chooses samples within each group and narrows the step's batch to them. */
import type { SelectCall } from "../ir/graph.ts";
import { keptBy } from "../ir/groups.ts";
import type { Batch } from "./batch.ts";

/**
 * Sequences that stay, group by group. Of equal values the earlier sample counts as the larger one, for the worst as for the
 * best, so that a pair of equals is the first and the last sample.
 */
export function selected(keep: SelectCall["keep"], values: ArrayLike<number>, group: number): number[] {
  return Array.from({ length: values.length / group }, (_, g) => {
    const order = Array.from({ length: group }, (_, i) => g * group + i)
      .sort((a, b) => values[b]! - values[a]! || a - b);
    return keep === "bestAndWorst" ? [order[0]!, order.at(-1)!] : order.slice(0, keep).sort((a, b) => a - b);
  }).flat();
}

/**
 * Narrows the batch.
 *
 * @returns the mean of what it selects by, over those that stay
 */
export function select(call: SelectCall, batch: Batch): { readonly kept: number } {
  const { values } = batch.numbersOf(call.reads.by!), numbers = values as Float32Array;
  const samples = selected(call.keep, numbers, batch.group);
  batch.keep(samples, keptBy(call.keep));
  return { kept: samples.reduce((sum, s) => sum + numbers[s]!, 0) / samples.length };
}
