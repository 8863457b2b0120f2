/**
 * Several turns with a tool (Schick et al. 2023, "Toolformer", arXiv 2302.04761, for tools; trained as in DAPO, Yu et al.
 * 2025, eq. 8). When a turn ends in a sum the host asks the calculator, and its answer is inserted as tokens that are no
 * actions: they have no log-probability, no advantage and no loss,
 *
 *     −1/Σ|o_i| Σ_i Σ_{t is an action} min(ρ A_i, clip(ρ, 1 − ε_low, 1 + ε_high) A_i).
 *
 * Begin with `calculator/warm_up.ts`, which shows the model that there is a calculator and that one can also guess.
 *
 *     deno run -A examples/multi_turn.ts --model runs/warm_up --steps 20 --out runs/multi_turn
 */
import {
  adamw,
  dapo,
  flags,
  groupAdvantages,
  models,
  policyModel,
  prompts,
  run,
  score,
  text,
  workflow,
  z,
} from "../mod.ts";
import { calculator, said } from "./calculator/task.ts";

const o = flags({ model: z.string().default("runs/warm_up").describe("what warm_up.ts has made") });
const { actor } = models({ actor: policyModel(o.model, adamw({ lr: 5e-4 })) });

const correct = score(
  "rewards",
  { response: text, answer: text },
  ({ response, answer }) => Number(said(response) === answer),
);

const algorithm = workflow({
  name: "multi_turn",
  data: prompts(new URL("calculator/sums.jsonl", import.meta.url).pathname, {
    batch: 32,
    fields: { answer: text },
  }),
  flow: actor.generate({ samples: 8, maxNewTokens: 24, tools: [calculator], maxTurns: 3 })
    .then(correct)
    .then(groupAdvantages())
    .then(actor.train(dapo(), { minibatches: 2 })),
});
export default algorithm;

if (import.meta.main) await run(algorithm, { steps: 20 });
