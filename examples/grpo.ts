/**
 * Group relative policy optimisation, GRPO (Shao et al. 2024, "DeepSeekMath", arXiv 2402.03300, eq. 3). Eight responses G of
 * a prompt are compared with each other instead of with a critic, A = (r − mean r) ÷ std r, and the loss is
 *
 *     −1/G Σ_i 1/|o_i| Σ_t [ min(ρ A_i, clip(ρ, 1 ± ε) A_i) − β (π_ref/π − log(π_ref/π) − 1) ],  ρ = π ÷ π_old.
 *
 *     deno run -A examples/grpo.ts --steps 20 --out runs/grpo
 */
import {
  adamw,
  groupAdvantages,
  grpo,
  models,
  policyModel,
  prompts,
  rewardModel,
  run,
  workflow,
} from "../mod.ts";
import { POLICY, PROMPTS, REWARD } from "./couplets/task.ts";

const { actor, ref, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 1e-3 })),
  ref: policyModel(POLICY),
  reward: rewardModel(REWARD),
});

const algorithm = workflow({
  name: "grpo",
  data: prompts(PROMPTS, { batch: 32 }),
  flow: actor.generate({ samples: 8, maxNewTokens: 16 })
    .then(reward.infer(), ref.infer().as("refLogprobs"))
    .then(groupAdvantages())
    .then(actor.train(grpo({ epsilon: 0.2, beta: 0.04 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
