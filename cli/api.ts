/**
 * What the commands call of `run.ts`. It is imported when a command needs it, so that `--help`, `graph` and `doctor`
 * never wait for, or fail with, the native library.
 */
import type { Workflow } from "../dsl/workflow.ts";
import type { Evaluation } from "../run/evaluation.ts";
import type { RunOptions } from "../run/options.ts";
import type { RunResult } from "../run/run.ts";
import type { ModelOptions } from "../run/single_model.ts";
import type { Step } from "../run/step.ts";
import type { Generated, GenerateOptions, Scored, ScoreItem } from "../run/standalone.ts";

/** The exports of `run.ts` that the commands call. */
export interface Runner {
  generate(model: string, options: GenerateOptions): Promise<Generated>;
  score(
    model: string,
    items: Iterable<ScoreItem>,
    options: ModelOptions,
  ): AsyncIterable<Scored>;
  /**
   * Runs the workflow's evaluation once; with `resume`, on the newest checkpoint of `out`. Writes nothing. Throws when the
   * workflow has no evaluation.
   */
  evaluate(workflow: Workflow, options: RunOptions): Promise<Evaluation>;
  /** Trains, hands out every step and returns what came of it; progress on stderr. */
  steps(workflow: Workflow, options: RunOptions): AsyncGenerator<Step, RunResult>;
}

/** Loads the composition root. */
export async function runner(): Promise<Runner> {
  return await import("../run.ts");
}
