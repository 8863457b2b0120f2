import assert from "node:assert/strict";
import fc from "fast-check";
import { batchOf, cutMicroBatches, pack, type TokenColumn } from "../../engine/batch.ts";
import { learningRate, miniBatches } from "../../engine/train.ts";
import { perPair, perSequence, tokenIds } from "../../ir/field.ts";
import type { AdamW } from "../../ir/graph.ts";

const column = (lengths: readonly number[], actions: readonly (readonly number[])[]): TokenColumn => ({
  ids: lengths.map((n, s) => Int32Array.from({ length: n }, (_, i) => 100 * s + i)),
  actions: actions.map((a) => Int32Array.from(a)),
  temperature: 1,
  versions: lengths.map(() => -1),
});

Deno.test("pack() lays sequences end to end and points every action at the row before it", () => {
  const p = pack(column([3, 2, 4], [[1, 2], [], [3]]), [2, 0]);
  assert.deepEqual({ ...p }, {
    tokens: 7,
    actions: 3,
    sequences: 2,
    ids: Int32Array.of(200, 201, 202, 203, 0, 1, 2),
    positions: Int32Array.of(0, 1, 2, 3, 0, 1, 2),
    ends: Int32Array.of(4, 7),
    rows: Int32Array.of(2, 4, 5),
    targets: Int32Array.of(203, 1, 2),
    actionEnds: Int32Array.of(1, 3),
    lastRows: Int32Array.of(3, 6),
  });
});

Deno.test("cutMicroBatches() cuts one order contiguously within its limits and never inside a block", () => {
  fc.assert(fc.property(
    fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 1, maxLength: 40 }),
    fc.constantFrom(1, 2, 4),
    fc.integer({ min: 160, max: 300 }),
    fc.integer({ min: 4, max: 12 }),
    (lengths, together, maxTokens, maxSequences) => {
      const whole = lengths.slice(0, lengths.length - lengths.length % together),
        order = whole.map((_, i) => i);
      const runs = cutMicroBatches(whole, order, { maxTokens, maxSequences, together });
      assert.deepEqual(runs.flat(), order);
      for (const run of runs) {
        assert.ok(run.reduce((n, s) => n + whole[s]!, 0) <= maxTokens && run.length <= maxSequences);
        assert.equal(run[0]! % together, 0);
      }
    },
  ));
});

Deno.test("cutMicroBatches() names the size of a block that fits no micro-batch", () => {
  const limits = { maxTokens: 10, maxSequences: 8, together: 2 };
  assert.throws(
    () => cutMicroBatches([6, 5], [0, 1], limits),
    /2 sequences that belong together have 11 tokens .* raise/,
  );
});

Deno.test("batchOf() repeats rows for every sample of a group and alternates chosen and rejected", () => {
  const ids = (n: number) => ({ ids: Int32Array.of(1, n), actions: Int32Array.of(1) });
  const prompts = batchOf([
    { index: 7, prompt: { ids: Int32Array.of(1), text: "a" }, fields: { answer: "x", weight: 2 } },
    { index: 3, prompt: { ids: Int32Array.of(2), text: "b" }, fields: { answer: "y", weight: 4 } },
  ], 2);
  assert.deepEqual(prompts.texts.get("prompt"), ["a", "a", "b", "b"]);
  assert.deepEqual(prompts.texts.get("answer"), ["x", "x", "y", "y"]);
  assert.deepEqual([...prompts.flat("weight", [0, 2, 3])], [2, 4, 4]);
  assert.equal(prompts.rowOf(3).index, 3);
  const pairs = batchOf([{ index: 0, tokens: ids(5), rejected: ids(6), fields: {} }], 2);
  assert.deepEqual(pairs.tokensOf("tokens").ids.map((x) => x[1]), [5, 6]);
});

Deno.test("miniBatches() permutes whole groups and uses each exactly once", () => {
  const batch = batchOf(Array.from({ length: 7 }, (_, index) => ({ index, fields: {} })), 3);
  const parts = miniBatches(batch, 3, [1, 2]);
  assert.deepEqual(parts.flat().toSorted((a, b) => a - b), Array.from({ length: 21 }, (_, i) => i));
  for (const part of parts) {
    for (let i = 0; i < part.length; i += 3) {
      assert.deepEqual(
        part.slice(i, i + 3),
        [0, 1, 2].map((s) => part[i]! + s),
      );
    }
  }
  assert.notDeepEqual(parts, miniBatches(batch, 3, [1, 3]));
  assert.throws(() => miniBatches(batch, 8, [1, 2]), /Cannot form 8 mini-batches: the batch has 7 groups/);
});

const adam = (o: Partial<AdamW>): AdamW => ({
  name: "adamw",
  lr: 1,
  betas: [0.9, 0.999],
  eps: 1e-8,
  weightDecay: 0,
  decay: "matrices",
  clip: 1,
  schedule: "constant",
  warmup: 0,
  minRatio: 0.1,
  ...o,
});

Deno.test("learningRate() warms up linearly, then holds or decays to minRatio", () => {
  const at = (o: Partial<AdamW>, done: number) => learningRate(adam(o), done, 14);
  assert.deepEqual([0, 1, 3, 9].map((i) => at({ warmup: 4 }, i)), [0.25, 0.5, 1, 1]);
  assert.deepEqual([4, 9, 14].map((i) => +at({ warmup: 4, schedule: "linear" }, i).toFixed(12)), [
    1,
    0.55,
    0.1,
  ]);
  assert.deepEqual([4, 9, 14, 20].map((i) => +at({ warmup: 4, schedule: "cosine" }, i).toFixed(12)), [
    1,
    0.55,
    0.1,
    0.1,
  ]);
});

Deno.test("batchOf() gives a pair one value of a per-pair column, whatever mini-batch the pair is in", () => {
  const ids = (n: number) => ({ ids: Int32Array.of(1, n), actions: Int32Array.of(1) });
  const rows = [1, 2, 3].map((margin, index) => ({
    index,
    tokens: ids(5),
    rejected: ids(6),
    fields: { margin, weight: 10 * margin },
  }));
  const batch = batchOf(rows, 2, { margin: perPair, weight: perSequence });
  assert.deepEqual([...batch.flat("margin", [4, 5, 2, 3])], [3, 2]);
  assert.deepEqual([...batch.flat("weight", [4, 5, 2])], [30, 30, 20]);
});

Deno.test("batchOf() makes a token field of every column of token ids", () => {
  const row = (index: number, ...own: number[]) => ({
    index,
    tokens: { ids: Int32Array.of(1, 2), actions: Int32Array.of(1) },
    fields: { other: { ids: Int32Array.from(own), actions: Int32Array.of(1) } },
  });
  const column = batchOf([row(0, 3, 4), row(1, 5, 6)], 1, { other: tokenIds }).tokensOf("other");
  assert.deepEqual(column.ids.map((x) => [...x]), [[3, 4], [5, 6]]);
  assert.deepEqual(column.versions, [-1, -1]);
  assert.equal(column.temperature, 1);
});
