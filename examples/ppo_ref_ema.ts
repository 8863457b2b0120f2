/**
 * PPO whose reference follows the actor (as in ReaL, Mei et al. 2024, arXiv 2406.14088): after each train call
 *
 *     ref ← η actor + (1 − η) ref,
 *
 * so that the KL penalty slows the policy down without tying it to where it began. The rest is PPO (Schulman et al. 2017,
 * eq. 7).
 *
 *     deno run -A examples/ppo_ref_ema.ts --steps 20 --out runs/ppo_ref_ema
 */
import {
  adamw,
  ema,
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
  workflow,
} from "../mod.ts";
import { POLICY, PROMPTS, REWARD } from "./couplets/task.ts";

const { actor, critic, ref, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 5e-4 })),
  critic: valueModel(POLICY, adamw({ lr: 2e-3 })),
  ref: policyModel(POLICY, ema("actor", { eta: 0.1 })),
  reward: rewardModel(REWARD),
});

const algorithm = workflow({
  name: "ppo_ref_ema",
  data: prompts(PROMPTS, { batch: 256 }),
  flow: actor.generate({ maxNewTokens: 16 })
    .then(reward.infer(), ref.infer().as("refLogprobs"), critic.infer())
    .then(shapedRewards({ beta: 0.1 }))
    .then(gae({ gamma: 1, lambda: 0.95, whiten: true }))
    .then(
      actor.train(ppoClip({ epsilon: 0.2 }), { minibatches: 2 }),
      critic.train(valueClip({ epsilon: 0.5 }), { minibatches: 2 }),
    ),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
