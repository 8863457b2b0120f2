/**
 * What the commands need of `run.ts`. It is imported when a command needs it, so that `--help`, `graph` and `doctor`
 * never wait for, or fail with, the native library.
 */
import type { Workflow } from "../dsl/workflow.ts";

/** Options of {@link Runner.generate}. Exactly one of `prompt` and `tokens` is given. */
export interface GenerateOptions {
  readonly prompt?: string;
  readonly tokens?: readonly number[];
  readonly maxNewTokens: number;
  /** 0 is greedy. */
  readonly temperature: number;
  /** 1 is off. */
  readonly topP: number;
  readonly seed: number;
  readonly ignoreEos: boolean;
}

/** The response only, without the prompt. `logprobs[i]` belongs to `tokens[i]`. */
export interface Generated {
  readonly tokens: readonly number[];
  /** Empty when the model's folder has no tokenizer. */
  readonly text: string;
  readonly logprobs: readonly number[];
}

/** Exactly one of `text` and `tokens`. */
export type ScoreItem = { readonly text: string } | { readonly tokens: readonly number[] };

export interface Scored {
  readonly tokens: readonly number[];
  /** `logprobs[i]` = log p(tokens[i + 1] | tokens[0 … i]): one shorter than `tokens`. */
  readonly logprobs: readonly number[];
  readonly sum: number;
}

/** What the command line may change of a run; the script says the rest. */
export interface RunOptions {
  /** YAML file of the machine and the run. */
  readonly config?: string;
  readonly steps?: number;
  readonly seed?: number;
  /** Output folder. */
  readonly out?: string;
  readonly resume?: boolean;
}

/** Options of {@link Runner.evaluate}. */
export interface EvaluateOptions {
  readonly config?: string;
  readonly seed?: number;
  /** Output folder of a run: its newest checkpoint is evaluated instead of the script's starting models. */
  readonly from?: string;
}

/** Mean of a metric over the held-out data, with its standard error. */
export interface Estimate {
  readonly mean: number;
  readonly standardError: number;
}

/** Metrics of one step by name. */
export interface Step {
  readonly step: number;
  readonly metrics: Readonly<Record<string, number>>;
}

/** The exports of `run.ts` that the commands call. */
export interface Runner {
  generate(model: string, options: GenerateOptions): Promise<Generated>;
  score(model: string, items: AsyncIterable<ScoreItem>): AsyncIterable<Scored>;
  evaluate(workflow: Workflow, options: EvaluateOptions): Promise<Readonly<Record<string, Estimate>>>;
  /** Runs with live progress on stderr. */
  run(workflow: Workflow, options: RunOptions): Promise<unknown>;
  /** Runs and hands out every step. */
  steps(workflow: Workflow, options: RunOptions): AsyncIterable<Step>;
}

/** Loads the composition root. */
export async function runner(): Promise<Runner> {
  return await import("../run.ts");
}
