/** A script whose import has effects, as `--effect` says; otherwise as small as a run with a score function can be. */
import {
  adamw,
  compute,
  flags,
  models,
  perSequence,
  policyLoss,
  policyModel,
  prompts,
  run,
  score,
  text,
  workflow,
} from "../../../mod.ts";
import { z } from "zod";

const o = flags({ world: z.string(), effect: z.enum(["none", "counts", "exits", "runs", "hangs", "hides"]) });

/** True for the second import of this script: in the worker of its score functions. */
function again(): boolean {
  const path = `${o.world}/imported`;
  try {
    Deno.statSync(path);
    return true;
  } catch {
    Deno.writeTextFileSync(path, "");
    return false;
  }
}

const second = again();
if (second && o.effect === "exits") Deno.exit(3);
if (second && o.effect === "hangs") await new Promise((resolve) => setTimeout(resolve, 60_000));

const { actor } = models({ actor: policyModel(`${o.world}/policy`, adamw({ lr: 1e-3 })) });
const letters = score("rewards", { response: text }, ({ response }) => response.length);
const centred = compute("centred", { rewards: perSequence }, ({ rewards }) => ({
  advantages: rewards.sub(rewards.mean()).mul(second && o.effect === "counts" ? 2 : 1),
}));
const reinforce = policyLoss(
  { advantages: perSequence },
  (now, batch) => now.logprobs.mul(batch.advantages.spread()).mean().neg(),
);
const flow = workflow({
  name: "effects",
  data: prompts(`${o.world}/prompts.jsonl`, { batch: 4 }),
  flow: actor.generate({ maxNewTokens: 4 }).then(letters).then(centred).then(actor.train(reinforce)),
});
export default second && o.effect === "hides" ? null : flow;

if (import.meta.main || o.effect === "runs") await run(flow, { steps: 1 });
