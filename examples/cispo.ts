/**
 * CISPO (MiniMax 2025, "MiniMax-M1", arXiv 2506.13585, eq. 4 and 5): the importance weight is bounded and held constant,
 * sg(·), so that no token loses its gradient:
 *
 *     −1/Σ|o_i| Σ_i Σ_t sg(min(ρ, c)) A_i log π(o_it).
 *
 *     deno run -A examples/cispo.ts --steps 20 --out runs/cispo
 */
import {
  adamw,
  cispo,
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
  actor: policyModel(POLICY, adamw({ lr: 5e-4 })),
  reward: rewardModel(REWARD),
});

const algorithm = workflow({
  name: "cispo",
  data: prompts(PROMPTS, { batch: 32 }),
  flow: actor.generate({ samples: 8, maxNewTokens: 16 })
    .then(reward.infer())
    .then(groupAdvantages())
    .then(actor.train(cispo({ maxRatio: 3 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
