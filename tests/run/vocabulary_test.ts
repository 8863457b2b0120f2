/** Models of one workflow with different vocabularies (DESIGN §3.5) and contexts. */
import { widened } from "../../engine/half.ts";
import assert from "node:assert/strict";
import { compileInfer } from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import { loadWeights } from "../../engine/weights.ts";
import type { Message } from "../../engine/template.ts";
import { Device } from "../../ffi/device.ts";
import { models, policyModel, prompts, rewardModel, steps, workflow } from "../../mod.ts";
import { loadModel } from "../../run/models.ts";
import { ModelRunner, packed, writeBatch } from "../golden/model_runner.ts";
import { jsonLines, tinyModel } from "./fixtures.ts";

const TOKENIZERS = new URL("../golden/cases/tokenizers/", import.meta.url).pathname;
const JUDGE_TEMPLATE = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}</s>{% endfor %}" +
  "{% if add_generation_prompt %}ASSISTANT:{% endif %}";

/** An actor of byte-level tokens and a judge of word pieces, the judge with a template of its own. */
async function world(folder: string): Promise<void> {
  for (const [name, tokenizer, head] of [["actor", "bytes", "lm"], ["judge", "pieces", "reward"]] as const) {
    const config = { vocab_size: 700, max_position_embeddings: 400, initializer_range: 0.4 };
    await tinyModel(`${folder}/${name}`, { letters: null, head, config, seed: 3 });
    for (const file of ["tokenizer.json", "tokenizer_config.json"]) {
      await Deno.copyFile(`${TOKENIZERS}${tokenizer}/${file}`, `${folder}/${name}/${file}`);
    }
  }
  await Deno.writeTextFile(`${folder}/judge/chat_template.jinja`, JUDGE_TEMPLATE);
}

async function withWorld(fn: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "baton-vocabulary-" });
  try {
    await world(folder);
    await fn(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** One step of sampling and judging: what was written and what the judge said of it. */
async function judged(
  folder: string,
  lines: readonly unknown[],
  { judge = "judge", samples = 2, maxNewTokens = 24 } = {},
) {
  const { actor, reward } = models({
    actor: policyModel(`${folder}/actor`),
    reward: rewardModel(`${folder}/${judge}`),
  });
  const flow = actor.generate({ maxNewTokens, samples }).then(reward.infer());
  const data = prompts(await jsonLines(`${folder}/prompts.jsonl`, lines), { batch: lines.length });
  const made = workflow({ name: "judge", data, flow }),
    options = { steps: 1, out: `${folder}/run`, quiet: true };
  for await (const { batch } of steps(made, options)) {
    const rewards = batch.numbersOf("rewards").values as Float32Array;
    return batch.texts.get("response")!.map((completion, i) => ({
      index: batch.rowOf(i).index,
      completion,
      reward: rewards[i]!,
    }));
  }
  throw new Error("no step was made");
}

/** Rewards of token ids, without any workflow. */
async function rewardsOf(folder: string, texts: readonly (string | readonly Message[])[]): Promise<number[]> {
  const model = await loadModel("judge", { head: "reward", checkpoint: `${folder}/judge`, optimizer: null });
  const tokenizer = model.tokenizer!;
  const batch = packed(texts.map((text) => {
    if (typeof text === "string") return [...tokenizer.encode(text)];
    return [...tokenizer.encode(tokenizer.render(text), { bos: false })];
  }));
  using device = Device.open({ threads: 1 });
  using runner = new ModelRunner(device, wholeShard(model.config, "reward"));
  await loadWeights(
    model.folder,
    runner.parameters,
    (p, values) => runner.write(runner.parameters.find((own) => own.name === p.name)!, widened(values)),
  );
  const maxima = { one: 1, ...batch.live, groups: 0, pairs: 0, shard: 0 };
  const infer = runner.bind(compileInfer(runner.shard, { maxima, outputs: ["rewards"] }));
  writeBatch(infer, batch);
  await infer.run(batch.live);
  return [...infer.read("outputs/rewards", batch.live)];
}

const TEXTS = ["The actor writes", "Don't worry: it's", "weights\n  and losses,", "Ünïcode 世界 🙂"];

Deno.test("reward.infer() with another vocabulary gives what the judge says of prompt and response as text", async () => {
  await withWorld(async (folder) => {
    const samples = await judged(folder, TEXTS.map((prompt) => ({ prompt })));
    assert.equal(samples.length, 2 * TEXTS.length);
    const direct = await rewardsOf(folder, samples.map((s) => TEXTS[s.index]! + s.completion));
    assert.deepEqual(samples.map((s) => s.reward), direct);
    assert.ok(new Set(direct).size > TEXTS.length, "rewards differ");
  });
});

Deno.test("reward.infer() with another vocabulary has room for texts that need more tokens there", async () => {
  await withWorld(async (folder) => {
    const { tokenizer } = await loadModel("judge", {
      head: "reward",
      checkpoint: `${folder}/judge`,
      optimizer: null,
    });
    const samples = await judged(folder, [{ prompt: "🙂" }], { samples: 1, maxNewTokens: 48 });
    const text = `🙂${samples[0]!.completion}`, own = 4 + 48;
    assert.ok(tokenizer!.encode(text).length > own, `${tokenizer!.encode(text).length} tokens`);
    assert.deepEqual(samples.map((s) => s.reward), await rewardsOf(folder, [text]));
  });
});

Deno.test("reward.infer() with another vocabulary renders messages with the judge's own template", async () => {
  await withWorld(async (folder) => {
    const chats = TEXTS.map((content, i): Message[] => [
      ...i % 2 ? [{ role: "system", content: "Be brief." }] : [],
      { role: "user", content },
    ]);
    const samples = await judged(folder, chats.map((prompt) => ({ prompt })));
    const conversation = (s: typeof samples[number]) => [
      ...chats[s.index]!,
      { role: "assistant", content: s.completion },
    ];
    const direct = await rewardsOf(folder, samples.map(conversation));
    assert.deepEqual(samples.map((s) => s.reward), direct);

    await Deno.remove(`${folder}/run`, { recursive: true });
    await Deno.remove(`${folder}/judge/chat_template.jinja`);
    await assert.rejects(
      judged(folder, chats.map((prompt) => ({ prompt }))),
      /Cannot score with reward: prompts are messages and .*judge has no chat template/,
    );
  });
});

Deno.test("reward.infer() takes the actor's tokens when tokenizer.json is only written another way", async () => {
  await withWorld(async (folder) => {
    await tinyModel(`${folder}/same`, {
      letters: null,
      head: "reward",
      config: { vocab_size: 700 },
      seed: 4,
    });
    const json = JSON.parse(await Deno.readTextFile(`${folder}/actor/tokenizer.json`));
    await Deno.writeTextFile(`${folder}/same/tokenizer.json`, JSON.stringify({ ...json, padding: null }));
    // This folder has no template, so re-reading messages would be refused.
    const samples = await judged(folder, [{ prompt: [{ role: "user", content: TEXTS[0] }] }], {
      judge: "same",
    });
    assert.equal(samples.length, 2);
  });
});

Deno.test("a step's samples stay within the smallest context of the models that read them", async () => {
  await withWorld(async (folder) => {
    const config = { vocab_size: 700, max_position_embeddings: 20 };
    await tinyModel(`${folder}/short`, { letters: null, head: "reward", config });
    await Deno.copyFile(`${folder}/actor/tokenizer.json`, `${folder}/short/tokenizer.json`);
    const { actor, reward } = models({
      actor: policyModel(`${folder}/actor`),
      reward: rewardModel(`${folder}/short`),
    });
    const flow = actor.generate({ maxNewTokens: 64, ignoreEos: true }).then(reward.infer());
    const data = prompts(await jsonLines(`${folder}/prompts.jsonl`, [{ tokens: [1, 2, 3] }]), { batch: 1 });
    const options = { steps: 1, out: `${folder}/run`, quiet: true };
    for await (const { batch } of steps(workflow({ name: "short", data, flow }), options)) {
      assert.deepEqual(batch.tokensOf("tokens").ids.map((ids) => ids.length), [20]);
    }
  });
});
