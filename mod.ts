/** What a script imports: the language, and how to run it. */
export * from "./dsl/mod.ts";
export {
  evaluate,
  type EvaluatedSample,
  type Evaluation,
  type EvaluationRecord,
  flags,
  generate as generateText,
  type Generated,
  type GenerateOptions,
  type ReferenceFigures,
  run,
  type RunOptions,
  type RunResult,
  score as scoreTokens,
  type Scored,
  type ScoreItem,
  type Step,
  steps,
  z,
} from "./run.ts";
