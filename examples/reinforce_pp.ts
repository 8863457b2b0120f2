/**
 * REINFORCE++ (Hu 2025, arXiv 2501.03262, eq. 3 to 5): PPO without a critic. The advantage of a token is the return from
 * there on, with the KL penalty in the rewards, normalised over all tokens of the step:
 *
 *     A_t = r(o) − β Σ_{s≥t} log(π_old ÷ π_ref)(o_s),  then PPO's clipped loss with (A − mean A) ÷ std A.
 *
 *     deno run -A examples/reinforce_pp.ts --steps 20 --out runs/reinforce_pp
 */
import {
  adamw,
  models,
  policyModel,
  ppoClip,
  prompts,
  returnsToGo,
  rewardModel,
  run,
  shapedRewards,
  workflow,
} from "../mod.ts";
import { POLICY, PROMPTS, REWARD } from "./couplets/task.ts";

const { actor, ref, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 1e-3 })),
  ref: policyModel(POLICY),
  reward: rewardModel(REWARD),
});

const algorithm = workflow({
  name: "reinforce_pp",
  data: prompts(PROMPTS, { batch: 256 }),
  flow: actor.generate({ maxNewTokens: 16 })
    .then(reward.infer(), ref.infer().as("refLogprobs"))
    .then(shapedRewards({ beta: 0.05 }))
    .then(returnsToGo())
    .then(actor.train(ppoClip({ epsilon: 0.2 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
