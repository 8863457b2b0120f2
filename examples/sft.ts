/**
 * Supervised fine-tuning (Ouyang et al. 2022, arXiv 2203.02155, §3.5): the mean negative log-likelihood of every predicted
 * token of the batch, −mean_t log π(o_t).
 *
 *     deno run -A examples/sft.ts --model models/base --data chats.jsonl --steps 100 --out runs/sft
 */
import { adamw, conversations, flags, models, policyModel, run, sft, workflow, z } from "../mod.ts";

const o = flags({
  model: z.string().describe("folder with config.json, weights and tokenizer"),
  data: z.string().describe("JSON lines: text, messages, prompt and completion, or tokens"),
  batch: z.int().positive().default(8).describe("sequences per step"),
  lr: z.number().positive().default(1e-4),
  schedule: z.enum(["constant", "linear", "cosine"]).default("constant"),
  warmup: z.int().nonnegative().default(0).describe("updates"),
  weightDecay: z.number().nonnegative().default(0),
  decay: z.enum(["matrices", "all"]).default("all").describe("which parameters decay"),
  betas: z.tuple([z.number(), z.number()]).default([0.9, 0.999]),
  clip: z.number().nonnegative().default(1).describe("largest gradient norm; 0 is off"),
  shuffle: z.boolean().default(true),
});

const { actor } = models({
  actor: policyModel(
    o.model,
    adamw({
      lr: o.lr,
      schedule: o.schedule,
      warmup: o.warmup,
      weightDecay: o.weightDecay,
      decay: o.decay,
      betas: o.betas,
      clip: o.clip,
    }),
  ),
});

const finetune = workflow({
  name: "sft",
  data: conversations(o.data, { batch: o.batch, shuffle: o.shuffle }),
  flow: actor.train(sft()),
});
export default finetune;

if (import.meta.main) await run(finetune);
