/** Adapters that PEFT wrote (`cases/lora/make.py`): the same log-probabilities, and the same files when they are written again. */
import assert from "node:assert/strict";
import { compileInfer } from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import { parseConfig } from "../../compiler/models/config.ts";
import { readAdapter, writeAdapter } from "../../engine/adapter.ts";
import { Safetensors } from "../../engine/safetensors.ts";
import { Device } from "../../ffi/device.ts";
import type { Parameter } from "../../ir/program.ts";
import { lora } from "../../mod.ts";
import { withFolder } from "../files/shared.ts";
import { MAXIMA } from "../pure/compiler_fixtures.ts";
import { largestError, ModelRunner, packed, writeBatch } from "./model_runner.ts";

const CASES = new URL("./cases/", import.meta.url).pathname;
const ADAPTERS = {
  qwen3_qknorm: lora({ rank: 3, alpha: 5 }),
  llama_tied: lora({ rank: 16, alpha: 4, targets: ["down_proj", "v_proj"] }),
};

for (const [name, adapter] of Object.entries(ADAPTERS)) {
  Deno.test(`an adapter that PEFT wrote for ${name} says here what it says there`, async () => {
    const folder = `${CASES}lora/${name}`;
    const json = JSON.parse(await Deno.readTextFile(`${CASES}${name}/config.json`));
    const shard = wholeShard({ ...parseConfig(json, name), lora: adapter }, "lm");
    using weights = await Safetensors.open(`${CASES}${name}/model.safetensors`);
    using golden = await Safetensors.open(`${folder}/golden.safetensors`);
    using device = Device.open({ threads: 2 });
    using runner = new ModelRunner(device, shard);
    for (const p of shard.parameters) if (p.frozen) runner.write(p, await weights.read(p.name, p.shape));
    const { parameters } = shard, size = (p: Parameter) => p.shape.reduce((n, d) => n * d, 1);
    const values = new Map(parameters.map((p) => [p.name, new Float32Array(size(p))]));
    await readAdapter(
      folder,
      { lora: adapter, head: "lm", parameters },
      (p, given, row) => values.get(p.name)!.set(given, row * (p.shape[1] ?? 1)),
    );
    for (const p of parameters) if (!p.frozen) runner.write(p, values.get(p.name)!);

    const batch = packed([[...await golden.readIntegers("input_ids")]]);
    const maxima = { ...MAXIMA, tokens: batch.live.tokens, actions: batch.live.tokens };
    const infer = runner.bind(compileInfer(shard, { maxima, outputs: ["logprobs"] }));
    writeBatch(infer, batch);
    await infer.run(batch.live);
    assert.ok(largestError(infer.read("outputs/logprobs", batch.live), await golden.read("logprobs")) < 1e-5);

    await withFolder(async (out) => {
      await writeAdapter(
        out,
        { lora: adapter, head: "lm", checkpoint: name, parameters },
        (p) => values.get(p.name)!,
      );
      using theirs = await Safetensors.open(`${folder}/adapter_model.safetensors`);
      using ours = await Safetensors.open(`${out}/adapter_model.safetensors`);
      assert.deepEqual([...ours.tensors.keys()], [...theirs.tensors.keys()]);
      for (const key of ours.tensors.keys()) {
        assert.deepEqual(await ours.read(key), await theirs.read(key), key);
      }
      const [mine, peft] = [out, folder].map((f) =>
        JSON.parse(Deno.readTextFileSync(`${f}/adapter_config.json`))
      );
      for (const key of Object.keys(mine)) {
        if (key === "target_modules") assert.deepEqual(mine[key].toSorted(), peft[key].toSorted());
        else if (key !== "base_model_name_or_path") assert.deepEqual(mine[key], peft[key], key);
      }
    });
  });
}
