/** What a script imports: the language, and how to run it. */
export * from "./dsl/mod.ts";
export { flags, run, type RunOptions, type RunResult, type Step, steps } from "./run.ts";
