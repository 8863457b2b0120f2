/**
 * DAPO (Yu et al. 2025, arXiv 2503.14476). Four changes of GRPO: the clipping range is wider above (clip-higher, eq. 8),
 * prompts whose responses all earn the same are replaced by others (dynamic sampling, eq. 11), every token counts the same
 * (token-level loss),
 *
 *     −1/Σ|o_i| Σ_i Σ_t min(ρ A_i, clip(ρ, 1 − ε_low, 1 + ε_high) A_i),
 *
 * and responses that come near the length limit lose reward (overlong shaping, eq. 13).
 *
 *     deno run -A examples/dapo.ts --steps 20 --out runs/dapo
 */
import {
  adamw,
  compute,
  dapo,
  groupAdvantages,
  models,
  overlongShaping,
  perSequence,
  policyModel,
  prompts,
  refill,
  rewardModel,
  run,
  workflow,
} from "../mod.ts";
import { POLICY, PROMPTS, REWARD } from "./couplets/task.ts";

const { actor, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 1e-3 })),
  reward: rewardModel(REWARD),
});

// The verdict is 1 or 0, as verifiable rewards are: then many prompts have nothing to learn from.
const verdict = compute("verdict", { rewards: perSequence }, ({ rewards }) => ({ verdict: rewards.ge(2) }));
const informative = compute("informative", { verdict: perSequence }, ({ verdict }) => ({
  informative: verdict.groupStd().ge(1e-6),
}));
const rollout = actor.generate({ samples: 8, maxNewTokens: 16 })
  .then(reward.infer()).then(verdict).then(informative);

const algorithm = workflow({
  name: "dapo",
  data: prompts(PROMPTS, { batch: 32 }),
  flow: refill(rollout, { until: "informative", maxRounds: 3 })
    .then(overlongShaping({ maxLength: 16, buffer: 4 }).from({ rewards: "verdict" }))
    .then(groupAdvantages().from({ rewards: "lengthRewards" }))
    .then(actor.train(dapo({ epsilon: 0.2, epsilonHigh: 0.28 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
