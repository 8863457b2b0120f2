/** What a script imports. */
export { adaptiveKl, gae, groupAdvantages, shapedRewards, whiten } from "./dsl/advantages.ts";
export { compute, score } from "./dsl/compute.ts";
export { bradleyTerry, dpo, ppoClip, sft, valueClip } from "./dsl/losses.ts";
export { policyLoss, rewardLoss, valueLoss } from "./dsl/loss.ts";
export { refill, select } from "./dsl/later.ts";
export { models, policyModel, rewardModel, valueModel } from "./dsl/models.ts";
export { adamw } from "./dsl/optimizer.ts";
export { conversations, preferences, prompts } from "./dsl/sources.ts";
export { state } from "./dsl/state.ts";
export { workflow } from "./dsl/workflow.ts";
export { perBatch, perPair, perSequence, perToken, perTokenOf, text, tokenIds } from "./ir/field.ts";
export type { Flow } from "./dsl/flow.ts";
export type { Tensor } from "./dsl/tensor.ts";
export type { Workflow } from "./dsl/workflow.ts";
export type { CallGraph } from "./ir/graph.ts";
export { flags, run, type RunOptions, type RunResult, type Step, steps } from "./run.ts";
