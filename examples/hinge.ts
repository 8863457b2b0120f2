/**
 * The hinge loss on the margin of DPO (Zhao et al. 2023, "SLiC-HF", arXiv 2305.10425; Liu et al. 2024, "RSO", arXiv
 * 2309.06657, eq. 14):
 *
 *     max(0, 1 − h),  h as in DPO (Rafailov et al. 2023, eq. 7).
 *
 *     deno run -A examples/hinge.ts --steps 20 --out runs/hinge
 */
import { adamw, hinge, models, policyModel, preferences, run, workflow } from "../mod.ts";
import { POLICY, PREFERENCES } from "./couplets/task.ts";

const { actor, ref } = models({
  actor: policyModel(POLICY, adamw({ lr: 5e-4 })),
  ref: policyModel(POLICY),
});

const algorithm = workflow({
  name: "hinge",
  data: preferences(PREFERENCES, { batch: 64 }),
  flow: ref.infer().as("refLogprobs").then(actor.train(hinge({ beta: 0.1 }))),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
