/**
 * Group sequence policy optimisation, GSPO (Zheng et al. 2025, arXiv 2507.18071, eq. 5 and 7): the ratio is that of the
 * whole response, as the advantage is, with the length divided out:
 *
 *     −1/G Σ_i min(s_i A_i, clip(s_i, 1 ± ε) A_i),  s_i = (π(o_i) ÷ π_old(o_i))^(1/|o_i|).
 *
 * The paper's range is 3e-4 to 4e-4 for long responses; these have nine tokens.
 *
 *     deno run -A examples/gspo.ts --steps 20 --out runs/gspo
 */
import {
  adamw,
  groupAdvantages,
  gspo,
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

const algorithm = workflow({
  name: "gspo",
  data: prompts(PROMPTS, { batch: 32 }),
  flow: actor.generate({ samples: 8, maxNewTokens: 16 })
    .then(reward.infer())
    .then(groupAdvantages())
    .then(actor.train(gspo({ epsilon: 0.03, epsilonHigh: 0.04 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
