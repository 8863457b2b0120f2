/** The language: everything of a script but running it. Pure, so it works in a browser too. */
export { lora } from "./adapter.ts";
export {
  adaptiveKl,
  baselineAdvantages,
  clippedRewards,
  gae,
  groupAdvantages,
  leaveOneOut,
  overlongShaping,
  returnsToGo,
  runningRewards,
  shapedRewards,
  valueNorm,
  whiten,
} from "./advantages.ts";
export { compute, score } from "./compute.ts";
export {
  bradleyTerry,
  cispo,
  cpo,
  dapo,
  distill,
  dpo,
  drGrpo,
  grpo,
  gspo,
  hinge,
  ipo,
  kto,
  ktoReferencePoint,
  orpo,
  ppoClip,
  reinforce,
  rloo,
  robustDpo,
  sft,
  simpo,
  valueClip,
} from "./losses.ts";
export { policyLoss, rewardLoss, valueLoss } from "./loss.ts";
export { refill, select } from "./selection.ts";
export { models, policyModel, rewardModel, valueModel } from "./models.ts";
export { adamw, ema } from "./optimizer.ts";
export { conversations, preferences, prompts } from "./sources.ts";
export { state } from "./state.ts";
export { finalNumber, mathVerifier } from "./verifiers.ts";
export { workflow } from "./workflow.ts";
export { perBatch, perPair, perSequence, perToken, perTokenOf, text, tokenIds } from "../ir/field.ts";
export type { Flow } from "./flow.ts";
export type { Tensor } from "./tensor.ts";
export type { Tool } from "./tools.ts";
export type { Workflow } from "./workflow.ts";
export type { CallGraph } from "../ir/graph.ts";
