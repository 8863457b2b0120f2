/** A model whose weights lie in rows gives the bits of one in panels: inference, gradients, update, generation. */
import assert from "node:assert/strict";
import { compileInfer, compileTrain, compileUpdate } from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import { type Layout, type Precision, storedIn } from "../../compiler/models/storage.ts";
import { ppoClip } from "../../dsl/losses.ts";
import { Device } from "../../ffi/device.ts";
import type { Head } from "../../ir/graph.ts";
import { ADAMW, MAXIMA, tiny } from "../pure/compiler_fixtures.ts";
import { generate } from "../golden/generation.ts";
import { ModelRunner, packed, random, sameBits, writeBatch } from "../golden/model_runner.ts";

const CONFIGS = {
  "a tied head with biases": tiny({
    model_type: "qwen3",
    architectures: [],
    head_dim: 16,
    tie_word_embeddings: true,
    attention_bias: true,
  }),
  "an own head": tiny(),
  "an adapter": {
    ...tiny({ mlp_bias: true }),
    lora: { rank: 5, alpha: 8, targets: ["q_proj", "o_proj", "down_proj"] as const },
  },
};
const SEQUENCES = (() => {
  const next = random(5);
  return [30, 9, 17, 2, 24].map((n) => Array.from({ length: n }, () => Math.floor((next() + 1) * 50)));
})();
const LARGE = { ...MAXIMA, tokens: 128, actions: 128 }, KEPT = 7;
const loss = ppoClip({ epsilon: 0.2, entropy: 0.01 });

/** Everything that a model says, and what it is after an update, under Hugging Face's names. */
async function all(
  device: Device,
  { config, head, precision, layout }: {
    config: typeof CONFIGS[keyof typeof CONFIGS];
    head: Head;
    precision: Precision;
    layout: Layout;
  },
): Promise<Record<string, Float32Array>> {
  const found: Record<string, Float32Array> = {};
  using runner = new ModelRunner(
    device,
    wholeShard({ ...config, storage: storedIn(precision, precision, layout) }, head),
  );
  const next = random(11);
  assert.ok(runner.parameters.some((p) => p.layout === "panels") === (layout === "panels"));
  for (const p of runner.parameters.toSorted((a, b) => a.name < b.name ? -1 : 1)) {
    const scale = p.matrix ? 0.2 : 0.1, shift = p.init === "ones" ? 1 : 0;
    const n = p.shape.reduce((a, b) => a * b, 1);
    runner.write(p, Float32Array.from({ length: n }, () => shift + scale * next()));
  }
  const batch = packed(SEQUENCES), { live } = batch;
  if (head === "value") {
    const values = runner.bind(compileInfer(runner.shard, { maxima: LARGE, outputs: ["values"] }));
    writeBatch(values, batch);
    await values.run(live);
    return { values: values.read("outputs/values", live) };
  }
  const lists = Int32Array.from({ length: live.actions * KEPT }, (_, e) => {
    const [i, j] = [Math.floor(e / KEPT), e % KEPT];
    return j > i % KEPT ? -1 : (batch.ports.targets[i]! + 11 * j) % config.vocab;
  });
  for (const kept of [0, KEPT]) {
    const outputs = ["logprobs", "entropy"] as const;
    const infer = runner.bind(compileInfer(runner.shard, { maxima: LARGE, outputs, kept }));
    writeBatch(infer, batch);
    if (kept) infer.write("inputs/kept", lists);
    await infer.run(live);
    for (const name of outputs) found[`${name} of ${kept}`] = infer.read(`outputs/${name}`, live);
    const o = { maxima: LARGE, loss: loss.expr, fields: loss.reads, recompute: "nothing", kept } as const;
    const train = runner.bind(compileTrain(runner.shard, o).backward), old = random(3);
    writeBatch(train, batch);
    if (kept) train.write("inputs/kept", lists);
    train.zero("outputs");
    train.offer("inputs/count.token", Float32Array.of(live.actions));
    train.offer("inputs/field.logprobs", Float32Array.from({ length: live.actions }, () => old() - 4));
    train.offer("inputs/field.advantages", Float32Array.from({ length: live.actions }, old));
    runner.zeroGradients();
    // Twice: the second one goes on with the sums of the first.
    for (let i = 0; i < 2; i++) await train.run(live);
    for (const p of runner.parameters) {
      if (!p.frozen) found[`gradient of ${p.name} over ${kept}`] = runner.read(p, "grads");
    }
  }
  const [sampled] = await generate([[runner]], SEQUENCES.map((s) => s.slice(0, 5)), 9, 1);
  sampled!.forEach(({ tokens, logprobs }, i) => {
    found[`tokens ${i}`] = Float32Array.from(tokens);
    found[`sampled ${i}`] = logprobs;
  });
  const update = runner.bind(compileUpdate(runner.shard, ADAMW));
  update.write("inputs/hyper", Float32Array.of(1e-2, 0.1, 0.05));
  await update.run({});
  for (const p of runner.parameters) found[`updated ${p.name}`] = runner.read(p, "params");
  return found;
}

for (const [name, config] of Object.entries(CONFIGS)) {
  for (const precision of ["fp32", "bf16"] as const) {
    Deno.test(`a model with ${name} gives the same bits in rows and in panels in ${precision}`, async () => {
      using device = Device.open({ threads: 2 });
      for (const head of ["lm", "value"] as const) {
        const of = (layout: Layout) => all(device, { config, head, precision, layout });
        const panels = await of("panels"), rows = await of("rows");
        assert.deepEqual(Object.keys(rows).sort(), Object.keys(panels).sort());
        for (const [what, values] of Object.entries(panels)) {
          assert.ok(values.every(Number.isFinite) && values.some((x) => x !== 0), what);
          assert.ok(sameBits(rows[what]!, values), `${what} (${head}) differs`);
        }
      }
    });
  }
}
