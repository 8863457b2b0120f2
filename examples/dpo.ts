/**
 * Direct preference optimisation, DPO (Rafailov et al. 2023, arXiv 2305.18290, eq. 7). The chosen response w should gain
 * more likelihood over the reference than the rejected one l:
 *
 *     −log σ(h),  h = β log(π(w) ÷ π_ref(w)) − β log(π(l) ÷ π_ref(l)).
 *
 *     deno run -A examples/dpo.ts --steps 20 --out runs/dpo
 */
import { adamw, dpo, models, policyModel, preferences, run, workflow } from "../mod.ts";
import { POLICY, PREFERENCES } from "./couplets/task.ts";

const { actor, ref } = models({
  actor: policyModel(POLICY, adamw({ lr: 5e-4 })),
  ref: policyModel(POLICY),
});

const algorithm = workflow({
  name: "dpo",
  data: preferences(PREFERENCES, { batch: 64 }),
  flow: ref.infer().as("refLogprobs").then(actor.train(dpo({ beta: 0.1 }))),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
