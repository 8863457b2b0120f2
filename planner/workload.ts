/** How much work a step is: how many sequences, and how long they are. */
import type { DataSizes } from "../compiler/sizes.ts";

/** A step as the planner sees it. */
export interface Workload {
  /** What programs and memory are sized for. */
  readonly sizes: DataSizes;
  /** Tokens of prompts, each as likely as the others: quantiles of what is expected. */
  readonly prompts: readonly number[];
  /** Tokens of responses (actions), likewise. */
  readonly responses: readonly number[];
  /** Seconds that score calls take for a whole step, by call. */
  readonly hostSeconds: Readonly<Record<string, number>>;
}

/** Every prompt and response as long as can be: what memory is for, and the most that a step can take. */
export const fullLengths = (sizes: DataSizes, hostSeconds: Workload["hostSeconds"] = {}): Workload => ({
  sizes,
  prompts: [Math.max(0, sizes.longest - sizes.longestResponse)],
  responses: [sizes.longestResponse],
  hostSeconds,
});

/** A sequence of a step. */
export interface Lengths {
  readonly prompt: number;
  readonly response: number;
}

/**
 * `count` sequences in an order in which every stretch is like the whole: multiples of the golden ratio go through the
 * quantiles evenly (Weyl 1916), and no chance is needed.
 */
export function sequencesOf({ prompts, responses }: Workload, count: number): Lengths[] {
  const at = (list: readonly number[], i: number, ratio: number) =>
    list[Math.min(list.length - 1, Math.floor(i * ratio % 1 * list.length))]!;
  return Array.from({ length: count }, (_, i) => ({
    prompt: at(prompts, i, GOLDEN),
    response: at(responses, i, SILVER),
  }));
}
const GOLDEN = (Math.sqrt(5) - 1) / 2, SILVER = Math.SQRT2 - 1;

/** Micro-batches of one rank, on average. */
export interface Packing {
  readonly count: number;
  readonly tokens: number;
  readonly actions: number;
  readonly sequences: number;
}

/** Neighbouring sequences (`together` at a time) put into micro-batches of at most `limit` tokens. */
export function packed(all: readonly Lengths[], limit: number, together: number): Packing {
  let count = 0, filled = Infinity, tokens = 0, actions = 0;
  for (let i = 0; i < all.length; i += together) {
    let block = 0;
    for (let j = i; j < Math.min(all.length, i + together); j++) {
      const { prompt, response } = all[j]!;
      block += prompt + response;
      actions += response;
    }
    if (filled + block > limit) [count, filled] = [count + 1, 0];
    filled += block;
    tokens += block;
  }
  const each = Math.max(1, count);
  return { count, tokens: tokens / each, actions: actions / each, sequences: all.length / each };
}
