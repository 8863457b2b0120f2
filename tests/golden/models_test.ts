/** PyTorch's numbers: log-probabilities, loss, every gradient, three AdamW steps and greedy tokens of tiny models. */
import { RECOMPUTE } from "../../ir/plan.ts";
import assert from "node:assert/strict";
import { compileFold, compileInfer, compileTrain, compileUpdate } from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import { Device } from "../../ffi/device.ts";
import { ADAMW, nll } from "../pure/compiler_fixtures.ts";
import { generate } from "./generation.ts";
import { CASES, load, NAMES, open } from "./golden_case.ts";
import { fold, largestError, ModelRunner, packed, relativeError, writeBatch } from "./model_runner.ts";

for (const name of NAMES) {
  for (const recompute of RECOMPUTE) {
    Deno.test(`compileTrain() trains ${name} like PyTorch, recomputing ${recompute}`, async () => {
      const { config, weights, golden, sequences, width, maxima } = await open(name);
      using device = Device.open({ threads: 2 });
      using runner = new ModelRunner(device, wholeShard(config, "lm"));
      await load(runner, weights);
      const train = runner.bind(
        compileTrain(runner.shard, { maxima, loss: nll(), fields: {}, recompute }).backward,
      );
      const update = runner.bind(compileUpdate(runner.shard, ADAMW)), batch = packed(sequences);
      writeBatch(train, batch);
      train.write("inputs/count.token", Float32Array.of(batch.live.actions));

      const losses: number[] = [];
      for (let step = 1; step <= 3; step++) {
        runner.zeroGradients();
        train.zero("outputs");
        await train.run(batch.live);
        losses.push((await fold(train, compileFold(nll(), {}))).loss!);
        if (step === 1) {
          const padded = await golden.read("logprobs");
          const expected = sequences.flatMap((
            s,
            r,
          ) => [...padded.subarray(r * (width - 1), r * (width - 1) + s.length - 1)]);
          assert.ok(
            largestError(train.read("outputs/logprobs", batch.live), expected) < 1e-5,
            "log-probabilities",
          );
          for (const p of runner.parameters) {
            const error = relativeError(runner.read(p, "grads"), await golden.read(`grad.${p.name}`));
            assert.ok(error < 1e-5, `gradient of ${p.name}: ${error}`);
          }
        }
        const [beta1, beta2] = ADAMW.betas;
        update.write("inputs/hyper", Float32Array.of(ADAMW.lr, 1 - beta1 ** step, 1 - beta2 ** step));
        await update.run({});
        if (step === 1) {
          const { grad_norm } = JSON.parse(await Deno.readTextFile(`${CASES}${name}/golden.json`));
          assert.ok(Math.abs(update.read("outputs/norm")[0]! / grad_norm - 1) < 1e-5, "gradient norm");
        }
      }
      assert.ok(
        largestError(Float32Array.from(losses), await golden.read("step_losses")) < 1e-5,
        `losses ${losses}`,
      );
      for (const p of runner.parameters) {
        const error = largestError(runner.read(p, "params"), await golden.read(`step3.${p.name}`));
        // Gradients of key biases are mathematically zero; Adam turns their rounding into steps.
        const limit = p.name.endsWith("k_proj.bias") ? 1e-4 : 2e-5;
        assert.ok(error < limit, `${p.name} after three steps: ${error}`);
      }
      weights[Symbol.dispose]();
      golden[Symbol.dispose]();
    });
  }

  Deno.test(`compileInfer() gives every token's log-probability and the entropy of ${name} like PyTorch`, async () => {
    const { config, weights, golden, sequences, width, maxima } = await open(name), vocab = config.vocab;
    using device = Device.open({ threads: 1 });
    using runner = new ModelRunner(device, wholeShard(config, "lm"));
    await load(runner, weights);
    const logits = await golden.read("logits");
    const infer = runner.bind(compileInfer(runner.shard, {
      maxima: { ...maxima, actions: maxima.tokens * vocab },
      outputs: ["logprobs", "entropy"],
    }));
    // One action for every row and every token of the vocabulary: all logits, up to a constant of each row.
    const batch = packed(sequences),
      rows: number[] = [],
      targets: number[] = [],
      expected: number[] = [],
      entropies: number[] = [];
    let row = 0;
    sequences.forEach((s, r) =>
      s.forEach((_, i) => {
        const at = (r * width + i) * vocab, line = Array.from(logits.subarray(at, at + vocab));
        const most = Math.max(...line),
          lse = most + Math.log(line.reduce((sum, x) => sum + Math.exp(x - most), 0));
        const entropy = line.reduce((sum, x) => sum - Math.exp(x - lse) * (x - lse), 0);
        line.forEach((x, id) => {
          rows.push(row);
          targets.push(id);
          expected.push(x - lse);
          entropies.push(entropy);
        });
        row++;
      })
    );
    writeBatch(infer, { ...batch, ports: { ...batch.ports, rows, targets } });
    const live = { ...batch.live, actions: rows.length };
    await infer.run(live);
    const errors = ["logprobs", "entropy"].map((port, i) =>
      largestError(infer.read(`outputs/${port}`, live), i ? entropies : expected)
    );
    assert.ok(errors.every((e) => e < 1e-5), `${errors}`);
    weights[Symbol.dispose]();
    golden[Symbol.dispose]();
  });

  Deno.test(`compilePrefill() and compileDecode() continue prompts with ${name} greedily like transformers`, async () => {
    const { config, weights, golden } = await open(name);
    using device = Device.open({ threads: 2 });
    using runner = new ModelRunner(device, wholeShard(config, "lm"));
    await load(runner, weights);
    const [mask, output] = [
      await golden.readIntegers("gen_attention_mask"),
      await golden.readIntegers("gen_output_ids"),
    ];
    const steps = 16, rows = (output.length - mask.length) / steps, width = mask.length / rows;
    const row = (r: number) => [...output.subarray(r * (width + steps), (r + 1) * (width + steps))];
    const lengths = Array.from(
      { length: rows },
      (_, r) => mask.subarray(r * width, (r + 1) * width).reduce((a, b) => a + b),
    );
    const prompts = lengths.map((n, r) => row(r).slice(width - n, width));
    const [made] = await generate([[runner]], prompts, steps, 0);
    made!.forEach(({ tokens }, r) => assert.deepEqual(tokens, row(r).slice(width), `row ${r}`));
    weights[Symbol.dispose]();
    golden[Symbol.dispose]();
  });
}
