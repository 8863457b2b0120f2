/** What compiled programs ask of the device, read back from their bytes. */
import type { Recompute } from "../../ir/plan.ts";
import assert from "node:assert/strict";
import { Builder } from "../../compiler/builder.ts";
import {
  compileDecode,
  compileInfer,
  compilePrefill,
  compileTrain,
  compileUpdate,
  type InferOutput,
} from "../../compiler/compile.ts";
import { type Shard, shardsOf, wholeShard } from "../../compiler/layout.ts";
import { SINGLE } from "../../compiler/models/storage.ts";
import { finish } from "../../compiler/finish.ts";
import { parameters } from "../../compiler/models/transformer.ts";
import { reservedBytes } from "../../compiler/shape.ts";
import type { Program } from "../../ir/program.ts";
import { decode } from "./compiler_decoder.ts";
import { lora } from "../../dsl/mod.ts";
import { ADAMW, CACHE, MAXIMA, nll, SAMPLING, tiny } from "./compiler_fixtures.ts";

const opsOf = (p: Program, kind: string) => decode(p.bytes).ops.filter((op) => op.kind === kind);
const generate = {
  ...CACHE,
  maxima: MAXIMA,
  sampling: { ...SAMPLING, temperature: 0.7, topK: 40, topP: 0.9 },
};

Deno.test("compilePrefill() and compileDecode() sample with the options of the call", () => {
  for (
    const [program, symbol] of [[compilePrefill(wholeShard(tiny(), "lm"), generate), "actions"], [
      compileDecode(wholeShard(tiny(), "lm"), generate),
      "tokens",
    ]] as const
  ) {
    const [sample, ...more] = opsOf(program, "sample");
    assert.equal(more.length, 0);
    const { slots: _, ...cache } = CACHE;
    assert.deepEqual(sample!.attributes, [
      { symbol, times: 1 },
      100,
      0.7,
      40,
      0.9,
      cache.stops,
      cache.maxNew,
    ]);
  }
});

Deno.test("prefill and decode have their state and cache at the same places, each of its own", () => {
  for (const stops of [0, 3]) {
    const [prefill, decode] = [
      compilePrefill(wholeShard(tiny(), "lm"), { ...generate, stops }),
      compileDecode(wholeShard(tiny(), "lm"), { ...generate, stops }),
    ];
    const shared = (p: Program) =>
      Object.entries(p.ports).filter(([name]) => name.startsWith("state/") || name.startsWith("kv/"));
    assert.deepEqual(shared(prefill), shared(decode));
    const offsets = shared(decode).filter(([name]) => name.startsWith("state/")).map(([, port]) =>
      port.offset
    );
    assert.equal(new Set(offsets).size, 9);
  }
});

Deno.test("every layer writes and reads the cache of its own index", () => {
  const program = compileDecode(wholeShard(tiny({ num_hidden_layers: 3 }), "lm"), generate);
  assert.deepEqual(opsOf(program, "ropeKvWrite").map((op) => op.attributes[4]), [0, 1, 2]);
  assert.deepEqual(opsOf(program, "pagedAttention").map((op) => op.attributes[6]), [0, 1, 2]);
});

Deno.test("compileUpdate() decays matrices only, or everything", () => {
  const all = parameters(tiny(), "lm");
  // Neighbours of one decay are one operation, with what is left between them to begin on cache lines.
  const decays = (decay: "matrices" | "all") =>
    opsOf(compileUpdate(wholeShard(tiny(), "lm"), { ...ADAMW, decay, weightDecay: 0.1 }), "adamw").map((op) =>
      op.attributes[4]
    );
  const each = all.map((p) => p.shape.length === 2 ? 0.1 : 0);
  assert.deepEqual(decays("matrices"), each.filter((rate, i) => rate !== each[i - 1]));
  assert.deepEqual(decays("all"), [0.1]);
});

Deno.test("compileInfer() asks only for what its outputs need", () => {
  const inputs = (head: "lm" | "value" | "reward", outputs: readonly InferOutput[]) =>
    Object.keys(compileInfer(wholeShard(tiny(), head), { maxima: MAXIMA, outputs }).ports)
      .filter((name) => name.startsWith("inputs/")).map((name) => name.slice(7)).sort();
  const sequences = ["ends", "ids", "positions"];
  assert.deepEqual(
    inputs("lm", ["logprobs"]),
    [...sequences, "inverseTemperature", "rows", "targets"].sort(),
  );
  assert.deepEqual(inputs("value", ["values"]), [...sequences, "rows"].sort());
  assert.deepEqual(inputs("value", ["finalValues"]), [...sequences, "lastRows"].sort());
  assert.deepEqual(inputs("reward", ["rewards"]), [...sequences, "lastRows"].sort());
  assert.throws(
    () => inputs("reward", ["logprobs"]),
    /Cannot compile a reward head: it has rewards, not logprobs/,
  );
});

Deno.test("the head costs nothing for tokens that are no actions", () => {
  const [head] = opsOf(
    compileInfer(wholeShard(tiny(), "lm"), { maxima: MAXIMA, outputs: ["logprobs"] }),
    "linearLogprob",
  );
  assert.deepEqual(head!.attributes[0], { symbol: "actions", times: 1 });
});

Deno.test("a frozen head has no gradient: an adapter's training neither computes one nor has memory for it", () => {
  const o = { maxima: MAXIMA, loss: nll(), fields: {}, recompute: "logits" } as const, config = tiny();
  const whole = compileTrain(wholeShard(config, "lm"), o).backward;
  const adapted = compileTrain(wholeShard({ ...config, lora: lora({ rank: 2 }) }, "lm"), o).backward;
  const kinds = (p: Program) => ["linearLogprobGrad", "linearLogprobDx"].map((kind) => opsOf(p, kind).length);
  assert.deepEqual([kinds(whole), kinds(adapted)], [[1, 0], [0, 1]]);
  const head = (p: Program) => p.table.filter((row) => /d\.(lm_head|model\.embed)/.test(row.name));
  assert.deepEqual(head(adapted), []);
  const large = { ...config, vocab: 10_000 }, at = { ...config, lora: lora({ rank: 2 }) };
  const arena = (vocab: number) =>
    compileTrain(wholeShard({ ...at, vocab }, "lm"), o).backward.segmentBytes.arena;
  assert.equal(arena(large.vocab), arena(config.vocab), "nothing in the arena is as large as the vocabulary");
});

Deno.test("flops() counts two per multiplication, and three times as many in training", () => {
  const config = tiny(), live = { ...MAXIMA, tokens: 40, actions: 30, sequences: 4 };
  const infer = compileInfer(wholeShard(config, "lm"), { maxima: MAXIMA, outputs: ["logprobs"] }).flops(live);
  // Per layer: q, o of 32 × 32, k, v of 32 × 16, three of 32 × 52; then 100 × 32; and 4 sequences of 10 tokens attend to 5 on average.
  const matrices = 2 * 40 * 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 52), head = 2 * 30 * 100 * 32;
  assert.equal(infer, matrices + head + 2 * 4 * (4 * 10 * 5) * 32);
  const train = (recompute: Recompute) =>
    compileTrain(wholeShard(config, "lm"), { maxima: MAXIMA, loss: nll(), fields: {}, recompute })
      .backward.flops(live);
  const layers = 3 * matrices + 2 * 14 * (4 * 10 * 5) * 32;
  assert.equal(train("nothing"), layers + 3 * head);
  assert.equal(train("logits"), layers + 4 * head, "the head's logits are made twice");
});

Deno.test("finish() refuses a program that breaks the specification", () => {
  const b = new Builder((v) => reservedBytes(v, MAXIMA));
  b.output("y", b.pointwise("neg", b.value("nothing", [4])));
  assert.throws(
    () => finish("broken", b, b.ops, { maxima: MAXIMA }),
    /Cannot compile broken: .*reads nothing before it is made/,
  );
});

Deno.test("a bias is added by the product before it, unless the sum over ranks comes between the two", () => {
  const config = tiny({ attention_bias: true }), o = { maxima: MAXIMA, outputs: ["logprobs"] } as const;
  const products = (shard: Shard) =>
    (["matmul", "matmul2", "matmul3"] as const).flatMap((kind, i) =>
      opsOf(compileInfer(shard, o), kind).map((op) => ({ ...op, count: i + 1 }))
    );
  const biases = (shard: Shard) => {
    const all = products(shard), biased = all.filter((op) => op.attributes.at(-1) === 1);
    for (const op of all) {
      assert.equal(op.operands.length, 1 + op.count * (op.attributes.at(-1) === 1 ? 3 : 2));
    }
    const joined = biased.reduce((n, op) => n + op.count, 0);
    return [joined, opsOf(compileInfer(shard, o), "addBias").length];
  };
  // q, k, v and o of two layers.
  assert.deepEqual(biases(wholeShard(config, "lm")), [8, 0]);
  assert.deepEqual(biases(shardsOf(config, "lm", { tp: 2, pp: 1 })[0]![1]!), [6, 2]);
  assert.deepEqual(biases(wholeShard(tiny(), "lm")), [0, 0]);
  // Weights in rows are said to be so.
  const rows = wholeShard({ ...config, storage: { ...SINGLE, layout: "rows" } }, "lm");
  for (const shard of [rows, wholeShard(config, "lm")]) {
    const gated = opsOf(compileInfer(shard, o), "gatedMatmul").map((op) => op.attributes.at(-1));
    const said = [...products(shard).map((op) => op.attributes.at(-2)), ...gated];
    assert.equal(gated.length, 2);
    assert.deepEqual(new Set(said), new Set([Number(shard !== rows)]));
  }
});
