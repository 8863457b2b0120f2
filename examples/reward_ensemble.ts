/**
 * Several rewards at once. Each is put on one scale, and a response is worth what its worst judge says (Coste et al. 2024,
 * "Reward model ensembles help mitigate overoptimization", arXiv 2310.02743, eq. 4, worst-case optimisation); a rule in
 * TypeScript is added,
 *
 *     R(o) = min_k (r_k(o) − mean r_k) ÷ std r_k  +  rule(o).
 *
 * Judges: the reward model, and how usual the response is to the reference model. Trained with Dr. GRPO (Liu et al. 2025,
 * eq. 2).
 *
 *     deno run -A examples/reward_ensemble.ts --steps 20 --out runs/reward_ensemble
 */
import {
  adamw,
  compute,
  drGrpo,
  groupAdvantages,
  models,
  perSequence,
  perToken,
  policyModel,
  prompts,
  rewardModel,
  run,
  score,
  type Tensor,
  text,
  workflow,
} from "../mod.ts";
import { POLICY, PROMPTS, REWARD } from "./couplets/task.ts";

const { actor, ref, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 1e-3 })),
  ref: policyModel(POLICY),
  reward: rewardModel(REWARD),
});

const brief = score("brief", { response: text }, ({ response }) => response.length <= 40 ? 0 : -1);
const standard = (x: Tensor<"sequence">) => {
  const centred = x.sub(x.mean());
  return centred.div(centred.square().mean().sqrt().max(1e-6));
};
const reads = { verse: perSequence, refLogprobs: perToken, brief: perSequence };
const ensemble = compute("ensemble", reads, ({ verse, refLogprobs, brief }) => ({
  rewards: standard(verse).min(standard(refLogprobs.meanPerSequence())).add(brief),
}));

const algorithm = workflow({
  name: "reward_ensemble",
  data: prompts(PROMPTS, { batch: 32 }),
  flow: actor.generate({ samples: 8, maxNewTokens: 16 })
    .then(reward.infer().as("verse"), ref.infer().as("refLogprobs"), brief)
    .then(ensemble)
    .then(groupAdvantages({ scale: false }))
    .then(actor.train(drGrpo({ epsilon: 0.2, maxTokens: 16 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
