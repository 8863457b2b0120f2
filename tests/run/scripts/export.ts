/**
 * Writes a trained model of some tens of MB from several devices and loads it again, and prints how much resident memory that took:
 * `export.ts OUT STRATEGY PRECISION`.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { parseConfig } from "../../../compiler/models/config.ts";
import { type Precision, storedIn } from "../../../compiler/models/storage.ts";
import { benchStage } from "../../../bench/cases.ts";
import { loadTensors, saveTensors } from "../../../engine/checkpoint.ts";
import { Devices } from "../../../engine/devices.ts";
import { rowPieces } from "../../../engine/tensor_pieces.ts";
import { initialValues, loadWeights, writeModel } from "../../../engine/weights.ts";
import { parseStrategy } from "../../../ir/notation.ts";
import type { ParallelStrategy } from "../../../ir/plan.ts";
import type { Parameter } from "../../../ir/program.ts";
import { adamw, conversations, models, policyModel, sft, workflow } from "../../../mod.ts";

const [out, layout, precision] = Deno.args as [string, string, Precision];
const strategy = parseStrategy(layout) as ParallelStrategy;
// One tensor alone is larger than all that an export may take.
const json = {
  model_type: "llama",
  hidden_size: 256,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 520,
  vocab_size: 36_000,
  max_position_embeddings: 64,
  tie_word_embeddings: false,
  hidden_act: "silu",
};
const config = { ...parseConfig(json, "the script"), storage: storedIn(precision) };
const { actor } = models({ actor: policyModel("none", adamw({ lr: 1e-4 })) });
const flow = workflow({
  name: "export",
  data: conversations("none.jsonl", { batch: 4 }),
  flow: actor.train(sft()),
});
const sizes = { sequences: 4, group: 1, longestPrompt: 0, longest: 16, longestResponse: 15 };
const devices = Devices.open({ count: strategy.dp * strategy.tp * strategy.pp, threads: 1 });
const stage = await benchStage(devices, flow, config, sizes, { strategy, load: () => Promise.resolve() });
const { engine } = stage, home = engine.home("actor"), { parameters } = engine.models.actor!;
// All memory of the devices is there from now on.
for (const p of parameters) {
  const values = initialValues(p, { seed: 0, std: 0.02 }), width = p.shape[1] ?? 1;
  for (const { from, to } of rowPieces(p.shape)) {
    const piece = values.subarray(from * width, to * width);
    for (const what of ["param", "m", "v"] as const) home.write(p.name, piece, what, from);
  }
}

/** A figure of /proc/self/status, in bytes. */
const status = (name: string) =>
  1024 * Number(new RegExp(`${name}:\\s*(\\d+)`).exec(Deno.readTextFileSync("/proc/self/status"))![1]);

/** How far resident memory rises above what it was. */
async function risen(what: () => Promise<unknown>): Promise<number> {
  (globalThis as unknown as { gc(): void }).gc();
  Deno.writeTextFileSync("/proc/self/clear_refs", "5");
  const before = status("VmRSS");
  await what();
  return status("VmHWM") - before;
}
const digest = (path: string) => createHash("sha256").update(Deno.readFileSync(path)).digest("hex");

const save = (folder: string, dtype: "F32" | "BF16", source: (p: Parameter) => ReturnType<typeof read>) =>
  Deno.mkdir(folder).then(() =>
    writeModel(folder, { config: json, head: "lm", parameters, source, dtype, tokenizerFolder: null })
  );
const read = home.reader(), moments = home.reader("m");
const model = await risen(() => save(`${out}/model`, "F32", read));
const half = await risen(() => save(`${out}/half`, "BF16", read));
const checkpoint = await risen(() =>
  saveTensors(
    `${out}/m.safetensors`,
    parameters.map((p) => ({ name: p.name, shape: p.shape, read: () => moments(p) })),
  )
);
const load = await risen(async () => {
  const options = { inRows: true };
  await loadWeights(
    `${out}/model`,
    parameters,
    (p, values, row) => home.write(p.name, values, "param", row),
    options,
  );
  await loadTensors(
    `${out}/m.safetensors`,
    parameters,
    (p, values, row) => home.write(p.name, values, "m", row),
  );
});
// What the weights began with, written tensor by tensor.
for (const [folder, dtype] of [["model", "F32"], ["half", "BF16"]] as const) {
  await save(
    `${out}/whole`,
    dtype,
    (p) => [initialValues(p, { seed: 0, std: 0.02 }) as Float32Array<ArrayBuffer>],
  );
  assert.equal(digest(`${out}/${folder}/model.safetensors`), digest(`${out}/whole/model.safetensors`));
  await Deno.remove(`${out}/whole`, { recursive: true });
}
const bytes = (await Deno.stat(`${out}/model/model.safetensors`)).size;
console.log(JSON.stringify({ bytes, model, half, checkpoint, load }));
stage.dispose(), devices[Symbol.dispose](), engine.dispose();
