/**
 * Best-of-n, or rejection sampling fine-tuning (Stiennon et al. 2020, arXiv 2009.01325, §3.1; Touvron et al. 2023, "Llama
 * 2", §3.2.3): of eight responses the one with the highest reward is imitated,
 *
 *     −mean log π(o*),  o* = argmax_i r(o_i).
 *
 *     deno run -A examples/best_of_n.ts --steps 20 --out runs/best_of_n
 */
import { adamw, models, policyModel, prompts, rewardModel, run, select, sft, workflow } from "../mod.ts";
import { POLICY, PROMPTS, REWARD } from "./couplets/task.ts";

const { actor, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 5e-4 })),
  reward: rewardModel(REWARD),
});

const algorithm = workflow({
  name: "best_of_n",
  data: prompts(PROMPTS, { batch: 32 }),
  flow: actor.generate({ samples: 8, maxNewTokens: 16 })
    .then(reward.infer())
    .then(select({ by: "rewards", keep: 1 }))
    .then(actor.train(sft(), { minibatches: 4 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
