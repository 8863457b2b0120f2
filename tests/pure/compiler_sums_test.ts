/** Closing backward passes, which sum gradients over ranks while they go on. */
import assert from "node:assert/strict";
import { compileTrain, compileUpdate } from "../../compiler/compile.ts";
import { bucketsOf, restOf, rowsAt, wholeOf } from "../../compiler/gradient_sums.ts";
import { Builder } from "../../compiler/builder.ts";
import { layoutViolations, type Shard, shardsOf, trainedOf, wholeShard } from "../../compiler/layout.ts";
import { lineOf } from "../../compiler/models/storage.ts";
import { reservedBytes } from "../../compiler/shape.ts";
import { ownElements } from "../../compiler/zero.ts";
import { AXES } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { decode } from "./compiler_decoder.ts";
import { ADAMW, MAXIMA, nll, tiny } from "./compiler_fixtures.ts";

const CONFIGS = [
  tiny({ num_hidden_layers: 4, vocab_size: 515, intermediate_size: 72 }),
  tiny({ num_hidden_layers: 4, tie_word_embeddings: true, attention_bias: true }),
];
const maxima = { ...MAXIMA, shard: 32 }, dpAxis = AXES.indexOf("dp");
const shards: Shard[] = CONFIGS.flatMap((config) =>
  [1, 2, 4].flatMap((tp) =>
    [1, 2].flatMap((pp) => {
      const cut = { dp: 2, tp, pp };
      return layoutViolations(config, cut).length ? [] : shardsOf(config, "lm", cut).flat();
    })
  )
);
const trained = (shard: Shard, zero: 0 | 1, bytes: number) =>
  compileTrain(shard, {
    maxima,
    loss: nll(),
    fields: {},
    recompute: "nothing",
    sums: { dp: 2, zero, bytes },
  });
const kindsOf = (p: Program) =>
  decode(p.bytes).ops.map(({ kind, attributes }) => {
    return { kind, axis: /^(all|reduce|shard|sum)/.test(kind) ? attributes.at(-1) : -1 };
  });
/** Positions of sums over data-parallel ranks, and of products that make gradients of weights. */
const sumsAt = (p: Program) =>
  kindsOf(p).flatMap(({ kind, axis }, i) =>
    /^(allReduce|reduceOwnRows)/.test(kind) && axis === dpAxis ? [i] : []
  );
const productsAt = (p: Program) => kindsOf(p).flatMap(({ kind }, i) => kind === "matmulDw" ? [i] : []);

Deno.test("buckets and what they leave are every gradient once, in the order in which a backward pass comes to them", () => {
  for (const shard of shards) {
    for (const least of [1, 3000, 1e9]) {
      const buckets = bucketsOf(shard, least), all = [...buckets, ...restOf(shard)].flat();
      assert.deepEqual(new Set(all), new Set(trainedOf(shard)));
      assert.equal(all.length, trainedOf(shard).length);
      for (const bucket of buckets) {
        const at = trainedOf(shard).indexOf(bucket[0]!);
        assert.deepEqual(bucket, trainedOf(shard).slice(at, at + bucket.length));
      }
      assert.ok(least < 1e9 || buckets.length <= 2);
    }
  }
});

Deno.test("ranks of a tensor-parallel group sum in the same places, whatever they hold", () => {
  for (const config of CONFIGS) {
    for (const stage of shardsOf(config, "lm", { tp: 2, pp: 2 })) {
      const [first, second] = stage.map((shard) => kindsOf(trained(shard, 0, 3000).closing!));
      assert.deepEqual(first, second);
    }
  }
});

Deno.test("a closing pass has the memory of the backward pass, and sums before its last product", () => {
  for (const shard of shards) {
    for (const zero of [0, 1] as const) {
      const { backward, closing } = trained(shard, zero, 3000);
      assert.deepEqual(closing!.segmentBytes, backward.segmentBytes);
      const [sums, products] = [sumsAt(closing!), productsAt(closing!)];
      assert.equal(sumsAt(backward).length, 0);
      assert.ok(sums.length > 1 && sums.filter((i) => i < products.at(-1)!).length >= sums.length / 2);
      // The update that follows has nothing left to sum but an embedding that two stages share.
      const tied = trainedOf(shard).filter((p) => p.sync === "tied").length;
      const of = (summed: boolean) =>
        sumsAt(compileUpdate(shard, ADAMW, { dp: 2, rank: 0, zero, summed })).length;
      assert.equal(of(true), tied);
      assert.equal(of(false), zero ? 0 : 1);
    }
  }
  assert.equal(
    compileTrain(shards[0]!, { maxima, loss: nll(), fields: {}, recompute: "nothing" }).closing,
    null,
  );
});

Deno.test("sums of buckets and of the rest touch every row of the whole", () => {
  for (const shard of shards) {
    const b = new Builder((v) => reservedBytes(v, maxima)),
      { to } = wholeOf(shard),
      line = lineOf(shard.config);
    const rows = rowsAt(b, shard, "grads", { from: 0, to }).shape[0];
    const seen = new Uint8Array(rows);
    const programs = [
      trained(shard, 1, 3000).closing!,
      compileUpdate(shard, ADAMW, { dp: 2, rank: 0, zero: 1, summed: true }),
    ];
    for (const p of programs) {
      for (const { kind, attributes } of decode(p.bytes).ops) {
        if (kind !== "reduceOwnRows") continue;
        const [count, width, from, total] = attributes as number[];
        assert.deepEqual([width, total], [line, rows]);
        for (let i = from!; i < from! + count!; i++) seen[i]!++;
      }
    }
    assert.ok(seen.every((n) => n === 1));
  }
});

Deno.test("a model with more parameters on a device than an attribute counts is summed and updated in pieces", () => {
  const config = tiny({ num_hidden_layers: 4, hidden_size: 8192, intermediate_size: 65536 });
  const shard = wholeShard(config, "lm"), all = wholeOf(shard).to;
  assert.ok(all > 2 ** 32, `${all}`);
  for (const zero of [0, 1] as const) {
    for (const dp of [1, 2]) {
      const update = compileUpdate(shard, ADAMW, { dp, rank: dp - 1, zero });
      const sums: number[] = [], updated: number[] = [];
      for (const { kind, operands, attributes } of decode(update.bytes).ops) {
        if (kind === "adamw") {
          assert.ok((attributes[0] as number) <= 2 ** 31);
          updated.push(operands[0]!.offset, operands[0]!.offset + operands[0]!.bytes);
        }
        if (kind === "allReduce") sums.push(operands[0]!.offset, operands[0]!.offset + operands[0]!.bytes);
      }
      // One behind the other, from the first to the last.
      const joins = (places: readonly number[]) =>
        places.slice(1, -1).every((at, i) => i % 2 === 1 || Math.ceil(at / 64) * 64 === places[i + 2]);
      const own = ownElements(shard, { dp, rank: dp - 1, zero });
      assert.ok(joins(updated) && updated[0] === 4 * own.from && updated.at(-1) === 4 * own.to, `${updated}`);
      assert.ok(updated.length > 2);
      if (dp === 1 || zero) assert.deepEqual(sums, []);
      else assert.ok(joins(sums) && sums.length > 2 && sums[0] === 0 && sums.at(-1) === 4 * all, `${sums}`);
    }
  }
});
