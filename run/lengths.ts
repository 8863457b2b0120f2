/** Lengths of the sequences of steps, as the planner asks for them. */
import type { Batch } from "../engine/batch.ts";
import type { CallGraph } from "../ir/graph.ts";
import { mainRollout } from "../ir/roles.ts";

/** Lengths that are planned with. */
const QUANTILES = 16;

/** So many lengths, each as likely as the others, that stand for all of them. */
export function quantiles(lengths: readonly number[]): number[] {
  const sorted = lengths.toSorted((a, b) => a - b);
  return Array.from(
    { length: QUANTILES },
    (_, i) => Math.max(1, sorted[Math.floor((i + 0.5) * sorted.length / QUANTILES)] ?? 1),
  );
}

export const mean = (xs: readonly number[]): number => xs.reduce((n, x) => n + x, 0) / Math.max(1, xs.length);

/** Tokens of every sequence of a step: what was given, and what is an action. */
export interface StepLengths {
  readonly prompts: readonly number[];
  readonly responses: readonly number[];
}

/** Of the rollout that is trained on, or of the data's own sequences. */
export function stepLengths(graph: CallGraph, { tokens }: Pick<Batch, "tokens">): StepLengths {
  const field = mainRollout(graph)?.writes.tokens, column = field ? tokens.get(field) : undefined;
  const { ids, actions } = column ?? [...tokens.values()][0] ?? { ids: [], actions: [] };
  return {
    prompts: ids.map((all, i) => all.length - actions[i]!.length),
    responses: actions.map((own) => own.length),
  };
}
