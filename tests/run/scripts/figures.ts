/** Workflows whose roles do not follow from names or places, on the world of fixtures.ts. */
import {
  adamw,
  bradleyTerry,
  compute,
  conversations,
  flags,
  models,
  perSequence,
  policyLoss,
  policyModel,
  preferences,
  prompts,
  rewardModel,
  run,
  sft,
  steps,
  workflow,
} from "../../../mod.ts";
import { z } from "zod";

const o = flags({
  world: z.string(),
  kind: z.enum(["remax", "twice", "stops", "renamed", "pairs", "conversations"]),
  each: z.boolean().default(false).describe("with steps(), printing every step"),
});

const { actor, ref, reward, judge } = models({
  actor: policyModel(`${o.world}/policy`, adamw({ lr: 1e-2 })),
  ref: policyModel(`${o.world}/policy`),
  reward: rewardModel(`${o.world}/reward`),
  judge: rewardModel(`${o.world}/reward`, adamw({ lr: 1e-3 })),
});
const data = prompts(`${o.world}/prompts.jsonl`, { batch: 4, heldOut: 0.25 });
const reinforce = policyLoss({ advantages: perSequence }, (now, { advantages }) => ({
  loss: now.logprobs.mul(advantages.spread()).mean().neg(),
  // True from the first mini-batch on.
  metrics: { always: now.logprobs.mean().lt(1) },
}));
const centred = compute("centred", { rewards: perSequence }, ({ rewards }) => ({
  advantages: rewards.sub(rewards.mean()),
}));
const rollout = actor.generate({ maxNewTokens: 8, samples: 3 });

const KINDS = {
  // The greedy generation is written first: siblings may be in any order.
  remax() {
    const greedy = actor.generate({ temperature: 0, maxNewTokens: 8, samples: 3 }).as({
      tokens: "greedyTokens",
      response: "greedyResponse",
      logprobs: "greedyLogprobs",
      length: "greedyLength",
      finished: "greedyFinished",
    });
    const judged = greedy.then(rollout).then(
      reward.infer({ from: "greedyTokens" }).as("baseline"),
      reward.infer(),
      ref.infer().as("refLogprobs"),
    );
    const advantages = compute("advantages", { rewards: perSequence, baseline: perSequence }, (batch) => ({
      advantages: batch.rewards.sub(batch.baseline),
    }));
    const flow = judged.then(advantages).then(actor.train(reinforce));
    return workflow({ name: "remax", data, flow, evaluate: { every: 1, prompts: 2, flow: judged } });
  },
  twice() {
    const flow = rollout.then(reward.infer()).then(centred)
      .then(actor.train(reinforce, { minibatches: 2 })).then(actor.train(reinforce));
    return workflow({ name: "twice", data, flow });
  },
  stops() {
    const flow = rollout.then(reward.infer()).then(centred)
      .then(actor.train(reinforce, { minibatches: 2, epochs: 2, stopWhen: "always" }));
    return workflow({ name: "stops", data, flow });
  },
  renamed() {
    const judged = rollout.then(reward.infer().as("quality"));
    const advantages = compute("advantages", { quality: perSequence }, ({ quality }) => ({
      advantages: quality.sub(quality.mean()),
    }));
    const flow = judged.then(advantages).then(actor.train(reinforce));
    return workflow({ name: "renamed", data, flow, evaluate: { every: 2, prompts: 2, flow: judged } });
  },
  pairs: () =>
    workflow({
      name: "pairs",
      data: preferences(`${o.world}/pairs.jsonl`, { batch: 2, shuffle: false }),
      flow: judge.train(bradleyTerry()),
    }),
  conversations: () =>
    workflow({
      name: "conversations",
      data: conversations(`${o.world}/texts.jsonl`, { batch: 2, shuffle: false }),
      flow: actor.train(sft()),
    }),
};
const figures = KINDS[o.kind]();
export default figures;

if (import.meta.main && o.each) {
  for await (const { step } of steps(figures, { steps: 1 })) console.log(`step ${step}`);
} else if (import.meta.main) await run(figures, { steps: 2 });
