/**
 * RLOO (Ahmadian et al. 2024, "Back to basics", arXiv 2402.14740, eq. 4): REINFORCE whose baseline is the mean reward of the
 * other responses to the same prompt,
 *
 *     −1/k Σ_i (r_i − 1/(k−1) Σ_{j≠i} r_j) log π(o_i),
 *
 * here with the ratio of whole responses clipped as in PPO, because a batch serves two updates.
 *
 *     deno run -A examples/rloo.ts --steps 20 --out runs/rloo
 */
import {
  adamw,
  leaveOneOut,
  models,
  policyModel,
  prompts,
  rewardModel,
  rloo,
  run,
  workflow,
} from "../mod.ts";
import { POLICY, PROMPTS, REWARD } from "./couplets/task.ts";

const { actor, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 1e-3 })),
  reward: rewardModel(REWARD),
});

const algorithm = workflow({
  name: "rloo",
  data: prompts(PROMPTS, { batch: 32 }),
  flow: actor.generate({ samples: 8, maxNewTokens: 16 })
    .then(reward.infer())
    .then(leaveOneOut({ normalize: true }))
    .then(actor.train(rloo({ epsilon: 0.5, epsilonHigh: 1 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
