/**
 * SimPO (Meng et al. 2024, arXiv 2405.14734, eq. 6): no reference, lengths divided out, a target margin γ:
 *
 *     −log σ(β/|w| log π(w) − β/|l| log π(l) − γ).
 *
 *     deno run -A examples/simpo.ts --steps 20 --out runs/simpo
 */
import { adamw, models, policyModel, preferences, run, simpo, workflow } from "../mod.ts";
import { POLICY, PREFERENCES } from "./couplets/task.ts";

const { actor } = models({ actor: policyModel(POLICY, adamw({ lr: 5e-4 })) });

const algorithm = workflow({
  name: "simpo",
  data: preferences(PREFERENCES, { batch: 64 }),
  flow: actor.train(simpo({ beta: 2, gamma: 0.5 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
