/**
 * Shows the tiny model what a calculator is: supervised fine-tuning (Ouyang et al. 2022, §3.5, −mean log π) on transcripts
 * of which a third use it, before multi_turn.ts makes that a habit.
 *
 *     deno run -A examples/calculator/warm_up.ts --steps 300 --out runs/warm_up
 */
import { adamw, conversations, models, policyModel, run, sft, workflow } from "../../mod.ts";
import { POLICY } from "../couplets/task.ts";

const { actor } = models({ actor: policyModel(POLICY, adamw({ lr: 2e-3, warmup: 10, schedule: "cosine" })) });

const warmUp = workflow({
  name: "warm_up",
  data: conversations(new URL("transcripts.jsonl", import.meta.url).pathname, { batch: 64 }),
  flow: actor.train(sft(), { minibatches: 2 }),
});
export default warmUp;

if (import.meta.main) await run(warmUp, { steps: 300 });
