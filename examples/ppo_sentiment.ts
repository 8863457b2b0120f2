/**
 * PPO on a real pretrained model: story openings are continued so that their sentiment rises. The reward is written in
 * TypeScript: VADER's word valences (Hutto & Gilbert 2014) summed over the square root of the number of words.
 *
 *     deno run -A examples/ppo_sentiment.ts --model ../shared/assets/models/stories260K --assets ../shared/assets/data
 */
import {
  adamw,
  flags,
  gae,
  models,
  policyModel,
  ppoClip,
  prompts,
  run,
  score,
  shapedRewards,
  text,
  valueClip,
  valueModel,
  workflow,
  z,
} from "../mod.ts";
import { parseLexicon, sentiment } from "./sentiment/vader.ts";

const here = (path: string) => new URL(path, import.meta.url).pathname;
const o = flags({
  model: z.string().default(here("../../shared/assets/models/stories260K"))
    .describe("folder of the language model"),
  assets: z.string().default(here("../../shared/assets/data"))
    .describe("folder with sentiment/vader_lexicon.txt and tinystories/story_openings.jsonl"),
  batch: z.int().positive().default(64).describe("prompts per step"),
  lr: z.number().positive().default(2e-4),
  beta: z.number().nonnegative().default(0.15).describe("weight of the KL penalty"),
});

const { actor, critic, ref } = models({
  actor: policyModel(o.model, adamw({ lr: o.lr })),
  critic: valueModel(o.model, adamw({ lr: 2 * o.lr })),
  ref: policyModel(o.model),
});

const lexicon = parseLexicon(lexiconText(`${o.assets}/sentiment/vader_lexicon.txt`));
const happy = score("rewards", { response: text }, ({ response }) => sentiment(response, lexicon));

const judged = actor.generate({ maxNewTokens: 100 }).then(happy, ref.infer().as("refLogprobs"));

const ppo = workflow({
  name: "ppo_sentiment",
  data: prompts(`${o.assets}/tinystories/story_openings.jsonl`, { batch: o.batch, heldOut: 0.2 }),
  flow: judged.then(critic.infer())
    .then(shapedRewards({ beta: o.beta }))
    .then(gae({ gamma: 1, lambda: 1, whiten: true }))
    .then(
      actor.train(ppoClip({ epsilon: 0.2 }), { minibatches: 8 }),
      critic.train(valueClip({ epsilon: 0.2 }), { minibatches: 8 }),
    ),
  evaluate: { every: 1000, prompts: 52, flow: judged },
});
export default ppo;

function lexiconText(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (cause) {
    if (!(cause instanceof Deno.errors.NotFound)) throw cause;
    throw new Error(
      `Cannot read the lexicon: there is no file ${path}, give --assets a folder with VADER's vader_lexicon.txt in sentiment/`,
    );
  }
}

if (import.meta.main) await run(ppo, { steps: 30 });
