/**
 * A reward model from preference pairs: Bradley & Terry 1952, loss = −log σ(r(chosen) − r(rejected)) (Ouyang et al. 2022, eq. 1).
 *
 *     deno run -A examples/reward.ts --model runs/sft --data pairs.jsonl --steps 200 --out runs/reward
 */
import { adamw, bradleyTerry, flags, models, preferences, rewardModel, run, workflow, z } from "../mod.ts";

const o = flags({
  model: z.string().describe("folder of the language model to start from"),
  data: z.string().describe("JSON lines: prompt, chosen, rejected"),
  batch: z.int().positive().default(32).describe("pairs per step"),
  lr: z.number().positive().default(1e-4),
  warmup: z.int().nonnegative().default(0).describe("updates"),
});

const { reward } = models({
  reward: rewardModel(o.model, adamw({ lr: o.lr, schedule: "cosine", warmup: o.warmup, minRatio: 0.1 })),
});

const pairs = workflow({
  name: "reward",
  data: preferences(o.data, { batch: o.batch }),
  flow: reward.train(bradleyTerry()),
});
export default pairs;

if (import.meta.main) await run(pairs);
