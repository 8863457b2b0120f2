/**
 * Online DPO (Guo et al. 2024, "Direct language model alignment from online AI feedback", arXiv 2402.04792, eq. 2 and
 * algorithm 1): of four responses the best and the worst by the reward model are a preference pair, for the loss of DPO
 *
 *     −log σ(β log(π(w) ÷ π_ref(w)) − β log(π(l) ÷ π_ref(l))).
 *
 *     deno run -A examples/online_dpo.ts --steps 20 --out runs/online_dpo
 */
import { adamw, dpo, models, policyModel, prompts, rewardModel, run, select, workflow } from "../mod.ts";
import { POLICY, PROMPTS, REWARD } from "./couplets/task.ts";

const { actor, ref, reward } = models({
  actor: policyModel(POLICY, adamw({ lr: 3e-4 })),
  ref: policyModel(POLICY),
  reward: rewardModel(REWARD),
});

const algorithm = workflow({
  name: "online_dpo",
  data: prompts(PROMPTS, { batch: 64 }),
  flow: actor.generate({ samples: 4, maxNewTokens: 16 })
    .then(reward.infer())
    .then(select({ by: "rewards", keep: "bestAndWorst" }))
    .then(ref.infer().as("refLogprobs"))
    .then(actor.train(dpo({ beta: 0.1 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
