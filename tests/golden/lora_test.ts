/**
 * An adapter against the whole model that it is merged into, whose numbers are PyTorch's (`models_test.ts`): the same log-probabilities,
 * and by the chain rule dB = s·dW·Aᵀ and dA = s·Bᵀ·dW of the whole gradient dW of W + s·B·A.
 */
import assert from "node:assert/strict";
import { compileTrain, compileUpdate } from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import { parseConfig } from "../../compiler/models/config.ts";
import { pairOf } from "../../compiler/models/lora.ts";
import { gradientBytes, parameterBytes } from "../../compiler/models/transformer.ts";
import { ALL, momentBytes } from "../../compiler/zero.ts";
import { merged, mergedParameters } from "../../engine/adapter.ts";
import { Safetensors } from "../../engine/safetensors.ts";
import { collected } from "../../engine/tensor_pieces.ts";
import { Device } from "../../ffi/device.ts";
import type { Head, Lora } from "../../ir/graph.ts";
import { lora } from "../../mod.ts";
import { ADAMW, MAXIMA, nll } from "../pure/compiler_fixtures.ts";
import { largestError, ModelRunner, packed, random, relativeError, writeBatch } from "./model_runner.ts";

const CASES = new URL("./cases/", import.meta.url).pathname;
const SEQUENCES = [[3, 1, 4, 1, 5, 9, 2, 6], [5, 3, 5], [8, 9, 7, 9, 3]];
const TOKENS = SEQUENCES.flat().length, maxima = { ...MAXIMA, tokens: TOKENS, actions: TOKENS };

async function configOf(name: string) {
  return parseConfig(JSON.parse(await Deno.readTextFile(`${CASES}${name}/config.json`)), name);
}

/** Log-probabilities and gradients of a runner whose parameters are written. */
async function trained(runner: ModelRunner) {
  const program =
    compileTrain(runner.shard, { maxima, loss: nll(), fields: {}, recompute: "nothing" }).backward;
  const train = runner.bind(program), batch = packed(SEQUENCES);
  writeBatch(train, batch);
  train.write("inputs/count.token", Float32Array.of(batch.live.actions));
  runner.zeroGradients();
  train.zero("outputs");
  await train.run(batch.live);
  return { logprobs: train.read("outputs/logprobs", batch.live), program };
}

/** [n, k] times [k, m], or with the first one transposed, [k, n]. */
function product(a: Float32Array, b: Float32Array, [n, k, m]: [number, number, number], transposed = false) {
  return Float32Array.from({ length: n * m }, (_, i) => {
    let sum = 0;
    for (let j = 0; j < k; j++) {
      sum += a[transposed ? j * n + Math.floor(i / m) : Math.floor(i / m) * k + j]! * b[j * m + i % m]!;
    }
    return sum;
  });
}
const transposed = (x: Float32Array, rows: number): Float32Array =>
  x.map((_, i) => x[(i % rows) * (x.length / rows) + Math.floor(i / rows)]!);

const ADAPTERS: Readonly<Record<string, Lora>> = {
  llama_untied: lora({ rank: 3 }),
  qwen2_bias: lora({ rank: 16, alpha: 8 }),
  qwen3_qknorm: lora({ rank: 17, alpha: 17, targets: ["v_proj", "o_proj", "up_proj"] }),
  llama_tied: lora({ rank: 1, alpha: 0.5, targets: ["down_proj"] }),
};

for (const [name, adapter] of Object.entries(ADAPTERS)) {
  Deno.test(`an adapter of rank ${adapter.rank} on ${name} is a low-rank part of the whole model`, async () => {
    const config = await configOf(name), draw = random(adapter.rank);
    using weights = await Safetensors.open(`${CASES}${name}/model.safetensors`);
    using device = Device.open({ threads: 2 });
    using low = new ModelRunner(device, wholeShard({ ...config, lora: adapter }, "lm"));
    using whole = new ModelRunner(device, wholeShard(config, "lm"));
    const values = new Map<string, Float32Array>();
    for (const p of low.parameters) {
      const given = p.frozen
        ? await weights.read(p.name, p.shape)
        : Float32Array.from({ length: p.shape[0]! * p.shape[1]! }, () => 0.2 * draw());
      values.set(p.name, given);
      low.write(p, given);
    }
    const source = merged({ lora: adapter, parameters: low.parameters }, (p) => values.get(p.name)!);
    assert.deepEqual(
      mergedParameters(low.parameters).map((p) => p.name).sort(),
      whole.parameters.map((p) => p.name).sort(),
    );
    for (const p of whole.parameters) {
      whole.write(p, await collected(source(p), p.shape.reduce((n, d) => n * d, 1)));
    }
    const [one, all] = [await trained(low), await trained(whole)];
    assert.ok(largestError(one.logprobs, all.logprobs) < 1e-5);

    const scale = adapter.alpha / adapter.rank, byName = new Map(low.parameters.map((p) => [p.name, p]));
    let pairs = 0;
    for (const p of whole.parameters) {
      const pair = pairOf(p.name.replace(/\.weight$/, "")), a = byName.get(pair.a), b = byName.get(pair.b);
      if (!a || !b) continue;
      pairs++;
      const dW = whole.read(p, "grads").map((x) => scale * x),
        [outputs, inputs] = p.shape as [number, number];
      const { rank } = adapter, A = values.get(pair.a)!, B = values.get(pair.b)!;
      const dA = product(B, dW, [rank, outputs, inputs], true);
      const dB = product(dW, transposed(A, rank), [outputs, inputs, rank]);
      for (const [parameter, expected] of [[a, dA], [b, dB]] as const) {
        const error = relativeError(low.read(parameter, "grads"), expected);
        assert.ok(error < 2e-5, `gradient of ${parameter.name}: ${error}`);
      }
    }
    assert.equal(pairs, adapter.targets.length * config.layers);

    const update = low.bind(compileUpdate(low.shard, ADAMW));
    update.write("inputs/hyper", Float32Array.of(0.01, 0.1, 0.001));
    await update.run({});
    for (const p of low.parameters) {
      const same = low.read(p, "params").every((x, i) => x === values.get(p.name)![i]);
      assert.equal(same, p.frozen === true, p.name);
    }
  });
}

Deno.test("gradients and moments are as large as the adapter, and a scalar head is trained beside it", async () => {
  const config = await configOf("llama_untied"), adapter = lora({ rank: 4 });
  for (const head of ["lm", "value", "reward"] as Head[]) {
    const shard = wholeShard({ ...config, lora: adapter }, head),
      own = shard.parameters.filter((p) => !p.frozen);
    const others = own.filter((p) => !/\.lora_[AB]\./.test(p.name)).map((p) => p.name);
    assert.deepEqual(others, head === "lm" ? [] : ["score.weight"]);
    assert.equal(gradientBytes(shard), parameterBytes(own));
    assert.equal(momentBytes(shard, ALL), 2 * parameterBytes(own));
    assert.ok(own.every((p, i) => p === shard.parameters[i]), "they come first");
  }
});
