/**
 * Identity preference optimisation, IPO (Azar et al. 2023, arXiv 2310.12036, eq. 17): the margin has a target instead of
 * growing without bound,
 *
 *     (log(π(w) ÷ π_ref(w)) − log(π(l) ÷ π_ref(l)) − 1/(2β))²,  with log-ratios per token.
 *
 *     deno run -A examples/ipo.ts --steps 20 --out runs/ipo
 */
import { adamw, ipo, models, policyModel, preferences, run, workflow } from "../mod.ts";
import { POLICY, PREFERENCES } from "./couplets/task.ts";

const { actor, ref } = models({
  actor: policyModel(POLICY, adamw({ lr: 5e-4 })),
  ref: policyModel(POLICY),
});

const algorithm = workflow({
  name: "ipo",
  data: preferences(PREFERENCES, { batch: 64 }),
  flow: ref.infer().as("refLogprobs").then(actor.train(ipo({ beta: 0.5 }))),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
