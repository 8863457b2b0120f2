/**
 * PPO with everything that is usually switched on around it (Schulman et al. 2017, arXiv 1707.06347, eq. 7; Ouyang et al.
 * 2022, arXiv 2203.02155; Huang et al. 2024, "The N+ implementation details of RLHF with PPO", arXiv 2403.17031): rewards
 * scaled and cut, a KL penalty whose weight follows the divergence, normalised values, whitened advantages, several epochs
 * of mini-batches that end early, dual clip, entropy bonus,
 *
 *     −mean_t min(ρ_t A_t, clip(ρ_t, 1 ± ε) A_t) − c H,   ½ mean_t max((V − R)², (V_old + clip(V − V_old, ±ε) − R)²).
 *
 *     deno run -A examples/ppo_full.ts --steps 20 --out runs/ppo_full
 */
import {
  adamw,
  adaptiveKl,
  clippedRewards,
  gae,
  models,
  policyModel,
  ppoClip,
  prompts,
  rewardModel,
  run,
  shapedRewards,
  valueClip,
  valueModel,
  valueNorm,
  workflow,
} from "../mod.ts";
import { POLICY, PROMPTS, REWARD } from "./couplets/task.ts";

const { actor, critic, ref, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 5e-4 })),
  critic: valueModel(POLICY, adamw({ lr: 2e-3 })),
  ref: policyModel(POLICY),
  reward: rewardModel(REWARD),
});

const { beta, move } = adaptiveKl({ init: 0.1, target: 2 }); // a number instead of `beta` keeps it fixed
const { restore, normalize } = valueNorm({ decay: 0.9 });

const rollout = actor.generate({ maxNewTokens: 16 })
  .then(reward.infer(), ref.infer().as("refLogprobs"), critic.infer().as("scaledValues"));
const rewards = clippedRewards({ limit: 3, scale: 0.5 })
  .then(shapedRewards({ beta }).from({ rewards: "clippedRewards" }), move);
const advantages = restore.then(gae({ gamma: 1, lambda: 0.95, whiten: true })).then(normalize);
const policy = ppoClip({ epsilon: 0.2, dualClip: 3, entropy: 0.003, targetKl: 0.05, maxRatio: 5 });
const value = valueClip({ epsilon: 0.5 });

const algorithm = workflow({
  name: "ppo_full",
  data: prompts(PROMPTS, { batch: 256 }),
  flow: rollout.then(rewards).then(advantages).then(
    actor.train(policy, { minibatches: 2, epochs: 2, stopWhen: "klExceeded" }),
    critic.train(value, { minibatches: 2, epochs: 2 }).from({
      values: "scaledValues",
      returns: "scaledReturns",
    }),
  ),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
