/** Losses of the field, written with `policyLoss`, `valueLoss` and `rewardLoss` like any script's own. */
export { ppoClip, valueClip } from "./losses/ppo.ts";
export { cispo, dapo, drGrpo, grpo, gspo } from "./losses/group.ts";
export { distill, reinforce, rloo } from "./losses/gradient.ts";
export { dpo, hinge, ipo, robustDpo } from "./losses/preference.ts";
export { cpo, orpo, simpo } from "./losses/reference_free.ts";
export { kto, ktoReferencePoint } from "./losses/kto.ts";
export { bradleyTerry, sft } from "./losses/supervised.ts";
