/**
 * What the commands call of `run.ts`. It is imported when a command needs it, so that `--help`, `graph` and `doctor`
 * never wait for, or fail with, the native library.
 */
import type { Workflow } from "../dsl/workflow.ts";
import type { RunOptions } from "../run/options.ts";
import type { Generated, GenerateOptions, Scored, ScoreItem } from "../run/standalone.ts";

/** Mean of a metric over the held-out data, with its standard error. */
export interface Estimate {
  readonly mean: number;
  readonly standardError: number;
}

/** The exports of `run.ts` that the commands call. */
export interface Runner {
  generate(model: string, options: GenerateOptions): Promise<Generated>;
  score(
    model: string,
    items: Iterable<ScoreItem>,
    options: { readonly threads?: number },
  ): AsyncIterable<Scored>;
  /** Runs the workflow's evaluation once; with `resume`, on the newest checkpoint of `out`. Writes nothing. */
  evaluate(workflow: Workflow, options: RunOptions): Promise<Readonly<Record<string, Estimate>>>;
  /** Trains with live progress on stderr. */
  run(workflow: Workflow, options: RunOptions): Promise<unknown>;
  /** Trains and hands out the metrics of every step. */
  steps(
    workflow: Workflow,
    options: RunOptions,
  ): AsyncIterable<{ readonly step: number; readonly metrics: Readonly<Record<string, number>> }>;
}

/** Loads the composition root. */
export async function runner(): Promise<Runner> {
  return await import("../run.ts");
}
