/** The composition root: what a script, a notebook and the command line run. */
export { flags, z } from "./run/flags.ts";
export type { RunOptions } from "./run/options.ts";
export { evaluate, run, type RunResult, steps } from "./run/run.ts";
export { plan, type Planned } from "./run/plan.ts";
export type { Samples, Step } from "./run/step.ts";
export type { EvaluatedSample, Evaluation, EvaluationRecord, ReferenceFigures } from "./run/evaluation.ts";
export {
  generate,
  type Generated,
  type GenerateOptions,
  score,
  type Scored,
  type ScoreItem,
} from "./run/standalone.ts";
