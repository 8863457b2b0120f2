/** From rewards to advantages: traced arithmetic written with `compute` like any script's own. */
export { gae, type GaeOptions, returnsToGo, whiten } from "./advantages/gae.ts";
export { baselineAdvantages, groupAdvantages, leaveOneOut } from "./advantages/group.ts";
export { runningRewards, valueNorm } from "./advantages/moments.ts";
export {
  adaptiveKl,
  clippedRewards,
  type KlEstimator,
  overlongShaping,
  shapedRewards,
} from "./advantages/rewards.ts";
