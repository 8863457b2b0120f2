/**
 * GRPO on samples of top-k and top-p sampling, with the sampling mask kept (DeepSeek-AI 2025, "DeepSeek-V3.2", §3.1). A token
 * is drawn from π renormalised over the set S_t of tokens that truncation kept; π and π_old of the ratio are then both
 *
 *     π(o_t) / Σ_{v ∈ S_t} π(v),
 *
 * so that ρ = 1 where the weights are those that sampled, and tokens that could not be drawn get no gradient. The loss is
 * GRPO's (Shao et al. 2024, arXiv 2402.03300, eq. 3) without a reference.
 *
 *     deno run -A examples/grpo_top_p.ts --steps 20 --out runs/grpo_top_p
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

const { actor, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 1e-3 })),
  reward: rewardModel(REWARD),
});

const truncated = { topK: 64, topP: 0.95, keepSampledMask: true };
const algorithm = workflow({
  name: "grpo_top_p",
  data: prompts(PROMPTS, { batch: 32 }),
  flow: actor.generate({ samples: 8, maxNewTokens: 16, ...truncated })
    .then(reward.infer())
    .then(groupAdvantages())
    .then(actor.train(grpo({ epsilon: 0.2 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
