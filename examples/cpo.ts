/**
 * Contrastive preference optimisation, CPO (Xu et al. 2024, arXiv 2401.08417, eq. 5): DPO without a reference, and the
 * likelihood of the chosen response:
 *
 *     −log σ(β log π(w) − β log π(l)) − log π(w) ÷ |w|.
 *
 *     deno run -A examples/cpo.ts --steps 20 --out runs/cpo
 */
import { adamw, cpo, models, policyModel, preferences, run, workflow } from "../mod.ts";
import { POLICY, PREFERENCES } from "./couplets/task.ts";

const { actor } = models({ actor: policyModel(POLICY, adamw({ lr: 5e-4 })) });

const algorithm = workflow({
  name: "cpo",
  data: preferences(PREFERENCES, { batch: 64 }),
  flow: actor.train(cpo({ beta: 0.1 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
