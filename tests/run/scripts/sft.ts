/** Supervised fine-tuning on the world of fixtures.ts. */
import { adamw, conversations, flags, models, policyModel, run, sft, workflow } from "../../../mod.ts";
import { z } from "zod";

const o = flags({
  world: z.string(),
  data: z.string().default("texts.jsonl"),
  model: z.string().default("policy"),
  lr: z.number().default(1e-3),
  batch: z.int().default(4),
});

const checkpoint = o.model.includes("/") ? o.model : `${o.world}/${o.model}`;
const { actor } = models({ actor: policyModel(checkpoint, adamw({ lr: o.lr })) });
const finetune = workflow({
  name: "sft",
  data: conversations(o.data.startsWith("/") ? o.data : `${o.world}/${o.data}`, { batch: o.batch }),
  flow: actor.train(sft()),
});
export default finetune;

if (import.meta.main) await run(finetune);
