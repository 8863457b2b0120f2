/**
 * PPO (Schulman et al. 2017; Ouyang et al. 2022) with actor, critic, reference and reward model, on the project's own tiny
 * models: the actor continues the first line of a couplet, the reward model likes second lines that rhyme.
 *
 *     deno run -A examples/ppo.ts --steps 40 --out runs/ppo
 */
import {
  adamw,
  compute,
  flags,
  gae,
  models,
  perSequence,
  policyModel,
  ppoClip,
  prompts,
  rewardModel,
  run,
  shapedRewards,
  valueClip,
  valueModel,
  workflow,
  z,
} from "../mod.ts";

const here = (path: string) => new URL(path, import.meta.url).pathname;
const o = flags({
  lr: z.number().positive().default(5e-4),
  beta: z.number().nonnegative().default(0.6).describe("weight of the KL penalty"),
  clip: z.number().positive().default(3).describe("rewards are cut to ± this"),
  batch: z.int().positive().default(512).describe("prompts per step"),
});

const { actor, critic, ref, reward } = models({
  actor: policyModel(here("models/couplets"), adamw({ lr: o.lr })),
  critic: valueModel(here("models/couplets"), adamw({ lr: 3 * o.lr })),
  ref: policyModel(here("models/couplets")),
  reward: rewardModel(here("models/couplets_reward")),
});

// What counts is whether a line rhymes, not how much the reward model likes it: its finer preferences would cost variety.
const clipped = compute("clipRewards", { rewards: perSequence }, ({ rewards }) => ({
  clippedRewards: rewards.clamp(-o.clip, o.clip),
}));

const judged = actor.generate({ maxNewTokens: 16 })
  .then(reward.infer(), ref.infer().as("refLogprobs"));

const ppo = workflow({
  name: "ppo",
  data: prompts(here("couplets/data/prompts.jsonl"), { batch: o.batch }),
  flow: judged.then(critic.infer(), clipped)
    .then(shapedRewards({ beta: o.beta }).from({ rewards: "clippedRewards" }))
    .then(gae({ gamma: 1, lambda: 0.95, whiten: true }))
    .then(
      actor.train(ppoClip({ epsilon: 0.2 }), { minibatches: 2 }),
      critic.train(valueClip({ epsilon: 0.2 }), { minibatches: 2 }),
    ),
  evaluate: {
    every: 1000,
    prompts: 256,
    flow: judged,
    data: prompts(here("couplets/data/heldout.jsonl"), { batch: 128, shuffle: false }),
  },
});
export default ppo;

if (import.meta.main) await run(ppo, { steps: 80 });
