/**
 * Makes the committed tiny models again, bit for bit: data → random Llama → SFT → reward model.
 *
 *     deno run -A examples/couplets/make_models.ts
 */
import { parseConfig } from "../../compiler/models/config.ts";
import { parameters } from "../../compiler/models/transformer.ts";
import { initializeWeights, saveModel } from "../../engine/weights.ts";

const here = (path: string) => new URL(path, import.meta.url).pathname;
const work = here("../../build/couplets"), models = here("../models");

const CONFIG = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 112,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 304,
  vocab_size: 1024,
  max_position_embeddings: 128,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  hidden_act: "silu",
  attention_bias: false,
  mlp_bias: false,
  attention_dropout: 0,
  initializer_range: 0.02,
  bos_token_id: 1022,
  eos_token_id: 1023,
};

/** A random model as a folder that a script can load. */
async function randomModel(folder: string): Promise<void> {
  const config = parseConfig(CONFIG, "make_models.ts"),
    list = parameters(config, "lm"),
    values = new Map<string, Float32Array>();
  await initializeWeights(list, (p, stored) => void values.set(p.name, stored), {
    seed: 7,
    std: CONFIG.initializer_range,
  });
  await saveModel(folder, {
    config: CONFIG,
    head: "lm",
    parameters: list,
    source: (p) => values.get(p.name)!,
    dtype: "F32",
    tokenizerFolder: here("data"),
  });
}

async function script(...args: string[]): Promise<void> {
  console.error(`deno run -A ${args.join(" ")}`);
  const { success } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", ...args],
    stdout: "inherit",
    stderr: "inherit",
  }).output();
  if (!success) throw new Error(`Cannot make the models: ${args[0]} failed, see above`);
}

await Deno.mkdir(work, { recursive: true });
for (const old of ["random", "sft", "reward"]) {
  await Deno.remove(`${work}/${old}`, { recursive: true }).catch(() => {});
}
await script(here("make_data.ts"));
await randomModel(`${work}/random`);
const common = ["--save-every", "0", "--seed", "1", "--save-dtype", "bf16"];
await script(
  here("../sft.ts"),
  "--model",
  `${work}/random`,
  "--data",
  here("data/sft.jsonl"),
  "--steps",
  "4500",
  "--batch",
  "128",
  "--lr",
  "1e-3",
  "--schedule",
  "cosine",
  "--warmup",
  "50",
  "--out",
  `${work}/sft`,
  ...common,
);
await script(
  here("../reward.ts"),
  "--model",
  `${work}/sft`,
  "--data",
  here("data/pairs.jsonl"),
  "--steps",
  "2000",
  "--batch",
  "64",
  "--lr",
  "5e-4",
  "--warmup",
  "50",
  "--out",
  `${work}/reward`,
  ...common,
);
for (const [from, to] of [["sft", "couplets"], ["reward", "couplets_reward"]] as const) {
  await Deno.mkdir(`${models}/${to}`, { recursive: true });
  for (
    const file of [
      "config.json",
      "model.safetensors",
      "tokenizer.json",
      "tokenizer_config.json",
      "generation_config.json",
    ]
  ) {
    await Deno.copyFile(`${work}/${from}/${file}`, `${models}/${to}/${file}`);
  }
}
