/**
 * A reward from an HTTP service, judge or sandbox: `score` is ordinary asynchronous TypeScript, one sample at a time; a
 * step's samples are asked side by side. `examples/http_judge.ts` is a service to try it with. Trained with Dr. GRPO (Liu et
 * al. 2025, eq. 2).
 *
 *     deno run -A examples/custom_reward.ts --steps 20 --out runs/custom_reward
 */
import {
  adamw,
  drGrpo,
  flags,
  groupAdvantages,
  models,
  policyModel,
  prompts,
  run,
  score,
  text,
  workflow,
  z,
} from "../mod.ts";
import { POLICY, PROMPTS } from "./couplets/task.ts";

const o = flags({
  judge: z.url().default("http://localhost:8765").describe("answers POST {prompt, response} with {score}"),
});
const { actor } = models({ actor: policyModel(POLICY, adamw({ lr: 1e-3 })) });

const judged = score("rewards", { prompt: text, response: text }, async (sample) => {
  const answer = await fetch(o.judge, { method: "POST", body: JSON.stringify(sample) });
  if (!answer.ok) throw new Error(`the judge answered ${answer.status}`);
  return (await answer.json()).score;
});

const algorithm = workflow({
  name: "custom_reward",
  data: prompts(PROMPTS, { batch: 32 }),
  flow: actor.generate({ samples: 8, maxNewTokens: 16 })
    .then(judged)
    .then(groupAdvantages({ scale: false }))
    .then(actor.train(drGrpo({ epsilon: 0.2, maxTokens: 16 }), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
