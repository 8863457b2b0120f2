/** The tiny models whose numbers PyTorch has said, in `cases/`. */
import { parseConfig } from "../../compiler/models/config.ts";
import { SINGLE, type Storage } from "../../compiler/models/storage.ts";
import { Safetensors } from "../../engine/safetensors.ts";
import { describe } from "../../ffi/device.ts";
import { MAXIMA } from "../pure/compiler_fixtures.ts";
import type { ModelRunner } from "./model_runner.ts";

export const CASES = new URL("./cases/", import.meta.url).pathname;
export const NAMES = [
  "llama_untied",
  "llama_tied",
  "llama3_rope",
  "qwen2_bias",
  "qwen3_qknorm",
  "mistral_window",
  "llama_biases_linear",
  "qwen2_window_tied",
  "qwen3_long",
];

/** A tiny model with PyTorch's numbers about it. `storage` is what it is stored in, f32 by default; in rows on GPUs, as runs have it. */
export async function open(name: string, storage: Storage = SINGLE) {
  const { backend } = describe();
  const config = parseConfig(
    JSON.parse(await Deno.readTextFile(`${CASES}${name}/config.json`)),
    `${name}/config.json`,
  );
  const weights = await Safetensors.open(`${CASES}${name}/model.safetensors`);
  const golden = await Safetensors.open(`${CASES}${name}/golden.safetensors`);
  const ids = await golden.readIntegers("input_ids"), lengths = [...await golden.readIntegers("lengths")];
  const width = ids.length / lengths.length;
  const sequences = lengths.map((n, r) => [...ids.subarray(r * width, r * width + n)]);
  const tokens = lengths.reduce((a, b) => a + b, 0), maxima = { ...MAXIMA, tokens, actions: tokens };
  const laid = {
    ...config,
    storage: { ...storage, layout: backend === "cuda" ? "rows" : "panels" },
  } as const;
  return { config: laid, weights, golden, sequences, width, maxima };
}

/** Puts a checkpoint into a rank's memory. */
export async function load(runner: ModelRunner, weights: Safetensors): Promise<void> {
  for (const p of runner.parameters) runner.write(p, await weights.read(p.name, p.shape));
}
