/**
 * ReMax (Li et al. 2024, arXiv 2310.10505, eq. 5): REINFORCE whose baseline is the reward of the greedy response, a second
 * generation:
 *
 *     −(r(o) − r(greedy)) log π(o).
 *
 *     deno run -A examples/remax.ts --steps 20 --out runs/remax
 */
import {
  adamw,
  baselineAdvantages,
  models,
  policyModel,
  prompts,
  reinforce,
  rewardModel,
  run,
  workflow,
} from "../mod.ts";
import { POLICY, PROMPTS, REWARD } from "./couplets/task.ts";

const { actor, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 3e-4 })),
  reward: rewardModel(REWARD),
});

const greedy = actor.generate({ maxNewTokens: 16, temperature: 0 })
  .as({ tokens: "greedyTokens", response: "greedyResponse" });

const algorithm = workflow({
  name: "remax",
  data: prompts(PROMPTS, { batch: 256 }),
  flow: actor.generate({ maxNewTokens: 16 }).then(greedy)
    .then(reward.infer(), reward.infer({ from: "greedyTokens" }).as("baseline"))
    .then(baselineAdvantages())
    .then(actor.train(reinforce(), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
