/**
 * Conservative DPO (Mitchell 2023, "A note on DPO with noisy preferences"): a label is wrong with probability ε,
 *
 *     −(1 − ε) log σ(h) − ε log σ(−h),  h as in DPO (Rafailov et al. 2023, eq. 7).
 *
 *     deno run -A examples/smoothed_dpo.ts --steps 20 --out runs/smoothed_dpo
 */
import { adamw, dpo, models, policyModel, preferences, run, workflow } from "../mod.ts";
import { POLICY, PREFERENCES } from "./couplets/task.ts";

const { actor, ref } = models({
  actor: policyModel(POLICY, adamw({ lr: 5e-4 })),
  ref: policyModel(POLICY),
});

const algorithm = workflow({
  name: "smoothed_dpo",
  data: preferences(PREFERENCES, { batch: 64 }),
  flow: ref.infer().as("refLogprobs").then(actor.train(dpo({ beta: 0.1, labelSmoothing: 0.1 }))),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
