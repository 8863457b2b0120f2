/**
 * ORPO (Hong et al. 2024, arXiv 2403.07691, eq. 6 and 7): fine-tuning and preferences in one loss, without a reference:
 *
 *     −log p(w) − λ log σ(log(odds(w) ÷ odds(l))),  odds = p ÷ (1 − p),  log p = log π(o) ÷ |o|.
 *
 *     deno run -A examples/orpo.ts --steps 20 --out runs/orpo
 */
import { adamw, models, orpo, policyModel, preferences, run, workflow } from "../mod.ts";
import { POLICY, PREFERENCES } from "./couplets/task.ts";

const { actor } = models({ actor: policyModel(POLICY, adamw({ lr: 5e-4 })) });

const algorithm = workflow({
  name: "orpo",
  data: preferences(PREFERENCES, { batch: 64 }),
  flow: actor.train(orpo({ lambda: 0.5 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
