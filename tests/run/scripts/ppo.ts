/** PPO with actor, critic, reference, an adaptive KL coefficient and a reward in TypeScript, on the world of fixtures.ts. */
import {
  adamw,
  adaptiveKl,
  flags,
  gae,
  models,
  policyModel,
  ppoClip,
  prompts,
  run,
  score,
  shapedRewards,
  text,
  valueClip,
  valueModel,
  workflow,
} from "../../../mod.ts";
import { z } from "zod";

const o = flags({
  world: z.string(),
  data: z.string().default("prompts.jsonl"),
  ref: z.string().default("policy"),
  critic: z.string().default("policy"),
  lr: z.number().default(1e-3),
  schedule: z.enum(["constant", "cosine"]).default("constant"),
  batch: z.int().default(4),
  samples: z.int().default(2),
  maxNew: z.int().default(12),
  ignoreEos: z.boolean().default(false),
  minibatches: z.int().default(2),
  epochs: z.int().default(1),
  shuffle: z.boolean().default(true),
  evaluate: z.boolean().default(false),
  judge: z.enum(["letters", "throws", "nan", "loops", "waits", "oneSlow"]).default("letters"),
});

const optimizer = adamw({ lr: o.lr, schedule: o.schedule });
const { actor, critic, ref } = models({
  actor: policyModel(`${o.world}/policy`, optimizer),
  critic: valueModel(`${o.world}/${o.critic}`, optimizer),
  ref: policyModel(`${o.world}/${o.ref}`),
});

/** Likes vowels; or misbehaves as tests ask. */
const judge = score("rewards", { prompt: text, response: text }, async ({ prompt, response }) => {
  const value = [...response].filter((c) => "aeiou".includes(c)).length;
  if (o.judge === "loops" && prompt === "one") console.error("judging one");
  if (o.judge === "throws" && prompt === "one") throw new Error("no judge for this");
  if (o.judge === "nan" && prompt === "one") return NaN;
  if (o.judge === "loops" && prompt === "one") { for (;;); }
  if (o.judge === "waits" && prompt === "one") await new Promise((resolve) => setTimeout(resolve, 60_000));
  if (o.judge === "oneSlow" && prompt === "one") await new Promise((resolve) => setTimeout(resolve, 300));
  return value;
});

const { beta, move } = adaptiveKl({ init: 0.1, target: 0.05 });
const judged = actor.generate({ maxNewTokens: o.maxNew, samples: o.samples, ignoreEos: o.ignoreEos }).then(
  judge,
  ref.infer().as("refLogprobs"),
);
const data = prompts(o.data.startsWith("/") ? o.data : `${o.world}/${o.data}`, {
  batch: o.batch,
  shuffle: o.shuffle,
});
const options = { minibatches: o.minibatches, epochs: o.epochs };
const flow = judged.then(critic.infer())
  .then(shapedRewards({ beta }), move)
  .then(gae({ gamma: 1, lambda: 0.95, whiten: true }))
  .then(actor.train(ppoClip({ epsilon: 0.2 }), options), critic.train(valueClip({ epsilon: 0.2 }), options));

const ppo = workflow({
  name: "ppo",
  data,
  flow,
  ...(o.evaluate && { evaluate: { every: 1000, prompts: 4, flow: judged, data } }),
});
export default ppo;

if (import.meta.main) await run(ppo);
