/**
 * Kahneman–Tversky optimisation, KTO (Ethayarajh et al. 2024, arXiv 2402.01306, eq. 8): single responses with a verdict
 * instead of pairs. With r = log(π ÷ π_ref) and the reference point z = KL(π ‖ π_ref), estimated on responses to other
 * prompts,
 *
 *     λ_D (1 − σ(β(r − z))) for desirable responses,  λ_U (1 − σ(β(z − r))) for others.
 *
 *     deno run -A examples/kto.ts --steps 20 --out runs/kto
 */
import {
  adamw,
  conversations,
  kto,
  ktoReferencePoint,
  models,
  perSequence,
  policyModel,
  run,
  tokenIds,
  workflow,
} from "../mod.ts";
import { JUDGED, POLICY } from "./couplets/task.ts";

const { actor, ref } = models({
  actor: policyModel(POLICY, adamw({ lr: 5e-4 })),
  ref: policyModel(POLICY),
});

const mismatched = actor.infer({ from: "mismatchedTokens" }).as("mismatchedLogprobs")
  .then(ref.infer({ from: "mismatchedTokens" }).as("mismatchedRef"))
  .then(ktoReferencePoint());

const algorithm = workflow({
  name: "kto",
  data: conversations(JUDGED, {
    batch: 64,
    fields: { desirable: perSequence, mismatchedTokens: tokenIds },
  }),
  flow: ref.infer().as("refLogprobs").then(mismatched).then(actor.train(kto({ beta: 0.1 }))),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
