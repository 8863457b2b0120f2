import type { Elements } from "../../compiler/pieces.ts";
import { widened } from "../../engine/half.ts";
import assert from "node:assert/strict";
import { initializeWeights, loadWeights, saveModel } from "../../engine/weights.ts";
import { Safetensors, writeSafetensors } from "../../engine/safetensors.ts";
import { fromBfloat16, toBfloat16 } from "../../engine/half.ts";
import { Tokenizer } from "../../engine/tokenizer.ts";
import { panelElements } from "../../ir/op.ts";
import type { Parameter } from "../../ir/program.ts";
import { SHARED, sharedTest, withFolder } from "./shared.ts";

const parameter = (name: string, shape: readonly number[], init: Parameter["init"] = "normal"): Parameter => {
  const panels = shape.length === 2;
  return {
    name,
    shape,
    layout: panels ? "panels" : "rows",
    matrix: panels,
    layer: -1,
    dtype: "f32",
    gradient: "f32",
    init,
    offset: 0,
    elements: panels ? panelElements(shape[0]!, shape[1]!) : shape[0]!,
  };
};
const PARAMETERS = [
  parameter("embed", [20, 6]),
  parameter("norm", [6], "ones"),
  parameter("score.weight", [1, 6], "zeros"),
];
const TINY = new URL("../golden/cases/tokenizers/bytes/", import.meta.url).pathname;

/** Takes what a load gives. */
function collect() {
  const values = new Map<string, Float32Array>();
  return { values, sink: (p: Parameter, stored: Elements) => void values.set(p.name, widened(stored)) };
}

async function start(): Promise<Map<string, Float32Array>> {
  const { values, sink } = collect();
  await initializeWeights(PARAMETERS, sink, { seed: 3, std: 0.02 });
  return values;
}

Deno.test("saveModel() and loadWeights() give back every parameter, exactly in F32 and rounded in BF16", async () => {
  await withFolder(async (folder) => {
    const weights = await start();
    for (const dtype of ["F32", "BF16"] as const) {
      await saveModel(`${folder}/model`, {
        config: { architectures: ["LlamaForCausalLM"], eos_token_id: 481, bos_token_id: null },
        head: "reward",
        parameters: PARAMETERS,
        source: (p) => weights.get(p.name)!,
        dtype,
        tokenizerFolder: TINY,
      });
      const { values, sink } = collect();
      assert.deepEqual(await loadWeights(`${folder}/model`, PARAMETERS, sink), {
        initialized: [],
        ignored: [],
      });
      for (const p of PARAMETERS) {
        const expected = weights.get(p.name)!;
        assert.deepEqual(values.get(p.name), dtype === "F32" ? expected : fromBfloat16(toBfloat16(expected)));
      }
    }
    const names = [...Deno.readDirSync(`${folder}/model`)].map((entry) => entry.name).sort();
    assert.deepEqual(names, [
      "config.json",
      "generation_config.json",
      "model.safetensors",
      "tokenizer.json",
      "tokenizer_config.json",
    ]);
    assert.deepEqual(
      [...Deno.readDirSync(folder)].map((entry) => entry.name),
      ["model"],
      "nothing else is left behind",
    );
    const read = (name: string) => JSON.parse(Deno.readTextFileSync(`${folder}/model/${name}`));
    assert.deepEqual(read("generation_config.json"), { eos_token_id: 481 });
    assert.equal(read("config.json").torch_dtype, "bfloat16");
    assert.deepEqual(
      (await Tokenizer.load(`${folder}/model`)).encode("hi"),
      (await Tokenizer.load(TINY)).encode("hi"),
    );
  });
});

Deno.test("saveModel() leaves an older model whole when writing fails", async () => {
  await withFolder(async (folder) => {
    const weights = await start();
    const save = (source: (p: Parameter) => Float32Array) =>
      saveModel(`${folder}/model`, {
        config: {},
        head: "lm",
        parameters: PARAMETERS,
        source,
        dtype: "F32",
        tokenizerFolder: null,
      });
    await save((p) => weights.get(p.name)!);
    await assert.rejects(
      save((p) => {
        if (p.name === "norm") throw new Error("the device is gone");
        return weights.get(p.name)!;
      }),
      /the device is gone/,
    );
    const { values, sink } = collect();
    await loadWeights(`${folder}/model`, PARAMETERS, sink);
    assert.deepEqual(values, weights);
  });
});

Deno.test("loadWeights() lists every difference between a checkpoint and the model", async () => {
  await withFolder(async (folder) => {
    await writeSafetensors(
      `${folder}/model.safetensors`,
      [
        { name: "embed", shape: [6, 20], dtype: "F32" },
        { name: "norm", shape: [6], dtype: "I32" },
        { name: "extra", shape: [1], dtype: "F32" },
        { name: "lm_head.weight", shape: [1], dtype: "F32" },
        { name: "model.layers.0.self_attn.rotary_emb.inv_freq", shape: [1], dtype: "F32" },
      ],
      (name) => name === "norm" ? new Int32Array(6) : new Float32Array(name === "embed" ? 120 : 1),
    );
    const { sink } = collect();
    await assert.rejects(loadWeights(folder, PARAMETERS, sink), (error: Error) => {
      for (
        const part of [
          "embed has shape [6, 20] instead of [20, 6]",
          "norm has dtype I32",
          "score.weight [1, 6] is missing",
          "extra is unexpected",
        ]
      ) assert.ok(error.message.includes(part), `${part} in ${error.message}`);
      assert.ok(!error.message.includes("lm_head") && !error.message.includes("inv_freq"), error.message);
      return true;
    });
  });
});

Deno.test("loadWeights() begins a critic's head anew when it may be missing", async () => {
  await withFolder(async (folder) => {
    await writeSafetensors(
      `${folder}/model.safetensors`,
      [{ name: "embed", shape: [20, 6], dtype: "F32" }, { name: "norm", shape: [6], dtype: "F32" }, {
        name: "lm_head.weight",
        shape: [20, 6],
        dtype: "F32",
      }],
      (name) => new Float32Array(name === "norm" ? 6 : 120).fill(2),
    );
    const { values, sink } = collect();
    const report = await loadWeights(folder, PARAMETERS, sink, { allowMissing: ["score.weight"] });
    assert.deepEqual(report, { initialized: ["score.weight"], ignored: ["lm_head.weight"] });
    assert.deepEqual(values.get("score.weight"), new Float32Array(6));
    assert.deepEqual(values.get("norm"), new Float32Array(6).fill(2));
  });
});

Deno.test("loadWeights() refuses a tied model whose file has another head", async () => {
  await withFolder(async (folder) => {
    const embedding = parameter("model.embed_tokens.weight", [20, 6]), head = "lm_head.weight";
    const load = async (more: readonly Parameter[], other: number) => {
      await writeSafetensors(
        `${folder}/model.safetensors`,
        [embedding.name, head].map((name) => ({ name, shape: [20, 6], dtype: "F32" })),
        (name) => new Float32Array(120).fill(name === head ? other : 2),
      );
      return await loadWeights(folder, [embedding, ...more], collect().sink, {
        allowMissing: ["score.weight"],
      });
    };
    await assert.rejects(load([], 3), /lm_head.weight differs from .* set tie_word_embeddings to false/);
    assert.deepEqual(await load([], 2), { initialized: [], ignored: [head] });
    const critic = await load([parameter("score.weight", [1, 6])], 3);
    assert.deepEqual(critic.ignored, [head], "a critic has another head");
  });
});

sharedTest("loadWeights() reads a real checkpoint", "models/stories260K/model.safetensors", async () => {
  const folder = `${SHARED}models/stories260K`;
  const parameters: Parameter[] = [];
  {
    using file = await Safetensors.open(folder);
    for (const { name, shape } of file.tensors.values()) parameters.push(parameter(name, shape));
  }
  const { values, sink } = collect();
  await loadWeights(folder, parameters, sink);
  const elements = parameters.reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0);
  assert.equal(elements, 260_032);
  const norm = values.get("model.norm.weight")!;
  assert.equal(norm.length, 64);
  assert.ok(norm.every((v) => v > 0 && v < 20));
});
