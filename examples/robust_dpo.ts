/**
 * Robust DPO (Chowdhury et al. 2024, arXiv 2403.00409, eq. 12): unbiased when a share ε of the labels is flipped,
 *
 *     (−(1 − ε) log σ(h) + ε log σ(−h)) ÷ (1 − 2ε),  h as in DPO (Rafailov et al. 2023, eq. 7).
 *
 *     deno run -A examples/robust_dpo.ts --steps 20 --out runs/robust_dpo
 */
import { adamw, models, policyModel, preferences, robustDpo, run, workflow } from "../mod.ts";
import { POLICY, PREFERENCES } from "./couplets/task.ts";

const { actor, ref } = models({
  actor: policyModel(POLICY, adamw({ lr: 5e-4 })),
  ref: policyModel(POLICY),
});

const algorithm = workflow({
  name: "robust_dpo",
  data: preferences(PREFERENCES, { batch: 64 }),
  flow: ref.infer().as("refLogprobs").then(actor.train(robustDpo({ beta: 0.1, flipped: 0.1 }))),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
