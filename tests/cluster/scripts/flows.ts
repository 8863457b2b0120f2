/** Small workflows whose batch changes during the step: refilled, narrowed, and with a tool between turns. */
import {
  adamw,
  compute,
  dapo,
  dpo,
  flags,
  groupAdvantages,
  grpo,
  models,
  perSequence,
  policyModel,
  prompts,
  refill,
  run,
  score,
  select,
  text,
  workflow,
  z,
} from "../../../mod.ts";

const o = flags({ world: z.string(), case: z.enum(["refill", "select", "tools", "kept"]) });
const { actor, ref } = models({
  actor: policyModel(`${o.world}/policy`, adamw({ lr: 1e-3 })),
  ref: policyModel(`${o.world}/policy`),
});
const vowels = score(
  "rewards",
  { response: text },
  ({ response }) => response.replace(/[^aeiou]/g, "").length,
);
const sampling = { samples: 4, maxNewTokens: 20 };

/** Two samples with as many vowels as each other are common, all four are not. */
const informative = compute("informative", { rewards: perSequence }, ({ rewards }) => ({
  informative: rewards.groupStd().ge(1),
}));
const flows = {
  refill: refill(actor.generate(sampling).then(vowels).then(informative), {
    until: "informative",
    maxRounds: 3,
  }).then(groupAdvantages()).then(actor.train(dapo())),
  select: actor.generate(sampling).then(vowels)
    .then(select({ by: "rewards", keep: "bestAndWorst" }))
    .then(ref.infer().as("refLogprobs"))
    .then(actor.train(dpo({ beta: 0.1 }), { minibatches: 2 })),
  tools: actor.generate({
    ...sampling,
    maxTurns: 3,
    tools: [{ name: "counter", call: /[a-m]$/, run: ([last]) => ` ${last} so` }],
  }).then(vowels).then(groupAdvantages()).then(actor.train(grpo({ epsilon: 0.2 }))),
  kept: actor.generate({ ...sampling, topK: 30, topP: 0.8, keepSampledMask: true }).then(vowels)
    .then(select({ by: "rewards", keep: 3 }))
    .then(ref.infer().as("refLogprobs"), groupAdvantages())
    .then(actor.train(grpo({ epsilon: 0.2, beta: 0.04 }), { minibatches: 2 })),
};
const data = prompts(`${o.world}/prompts.jsonl`, { batch: 6 });
const flow = flows[o.case] as typeof flows.tools;
const changing = workflow({ name: o.case, data, flow });
export default changing;

if (import.meta.main) await run(changing);
