/**
 * A reward model from several pairs per prompt (Ouyang et al. 2022, arXiv 2203.02155, eq. 1): every prompt counts the same
 * however many pairs it has, and rewards are kept around 0 (Eisenstein et al. 2023, arXiv 2312.09244, eq. 7),
 *
 *     −1/n log σ(r(w) − r(l)) + c (r(w) + r(l))².
 *
 *     deno run -A examples/reward_pairs.ts --steps 20 --out runs/reward_pairs
 */
import { adamw, bradleyTerry, models, perPair, preferences, rewardModel, run, workflow } from "../mod.ts";
import { POLICY, PREFERENCES } from "./couplets/task.ts";

const { reward } = models({ reward: rewardModel(POLICY, adamw({ lr: 1e-3 })) });

const algorithm = workflow({
  name: "reward_pairs",
  data: preferences(PREFERENCES, { batch: 64, fields: { pairWeight: perPair } }),
  flow: reward.train(bradleyTerry({ weighted: true, centre: 0.01 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
