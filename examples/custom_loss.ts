/**
 * A loss of one's own: REINFORCE with a quadratic trust region around the sampling policy instead of clipping,
 *
 *     −mean_t [ A_t log π(o_t) − ½ (log π(o_t) − log π_old(o_t))² ],
 *
 * whose second term is the k2 estimate of the divergence (Schulman 2020, "Approximating KL divergence").
 *
 * `now` is what the model says and is differentiated, `batch` is data. Mini-batches, micro-batches and devices are nobody's
 * business here.
 *
 *     deno run -A examples/custom_loss.ts --steps 20 --out runs/custom_loss
 */
import {
  adamw,
  groupAdvantages,
  models,
  perSequence,
  perToken,
  policyLoss,
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

const trustRegion = policyLoss({ logprobs: perToken, advantages: perSequence }, (now, batch) => {
  const gain = now.logprobs.mul(batch.advantages.spread());
  const moved = now.logprobs.sub(batch.logprobs).square().mul(0.5);
  return { loss: gain.sub(moved).mean().neg(), metrics: { moved: moved.mean() } };
});

const algorithm = workflow({
  name: "custom_loss",
  data: prompts(PROMPTS, { batch: 32 }),
  flow: actor.generate({ samples: 8, maxNewTokens: 16 })
    .then(reward.infer())
    .then(groupAdvantages())
    .then(actor.train(trustRegion, { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
