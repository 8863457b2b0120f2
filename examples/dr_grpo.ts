/**
 * Dr. GRPO (Liu et al. 2025, "Understanding R1-Zero-like training", arXiv 2503.20783, eq. 2): GRPO without its biases.
 * Advantages are not divided by the deviation of the group, A = r − mean r, and responses not by their own length but by a
 * constant L:
 *
 *     −1/G Σ_i 1/L Σ_t min(ρ A_i, clip(ρ, 1 ± ε) A_i).
 *
 *     deno run -A examples/dr_grpo.ts --steps 20 --out runs/dr_grpo
 */
import {
  adamw,
  drGrpo,
  groupAdvantages,
  models,
  policyModel,
  prompts,
  rewardModel,
  run,
  workflow,
} from "../mod.ts";
import { POLICY, PROMPTS, REWARD } from "./couplets/task.ts";

const { actor, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 1e-3 })),
  reward: rewardModel(REWARD),
});

const algorithm = workflow({
  name: "dr_grpo",
  data: prompts(PROMPTS, { batch: 32 }),
  flow: actor.generate({ samples: 8, maxNewTokens: 16 })
    .then(reward.infer())
    .then(groupAdvantages({ scale: false }))
    .then(actor.train(drGrpo({ epsilon: 0.2, maxTokens: 16 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
