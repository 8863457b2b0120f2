import assert from "node:assert/strict";
import fc from "fast-check";
import {
  kvReplicas,
  layoutViolations,
  type LocalParameter,
  type Shard,
  shardsOf,
  wholeShard,
} from "../../compiler/layout.ts";
import type { ModelConfig } from "../../compiler/models/config.ts";
import { parameterBytes, parameters, storedElements } from "../../compiler/models/parameters.ts";
import { stagesOf } from "../../compiler/stages.ts";
import { momentBytes, ownPieces } from "../../compiler/zero.ts";
import type { Head } from "../../ir/graph.ts";
import { align } from "../../ir/op.ts";
import { tiny } from "./compiler_fixtures.ts";

const HEADS: readonly Head[] = ["lm", "value", "reward"];
/** Small models of all shapes, most of them with sizes that do not divide. */
const anyConfig: fc.Arbitrary<ModelConfig> = fc.record({
  model_type: fc.constantFrom("llama", "qwen2", "qwen3"),
  num_hidden_layers: fc.integer({ min: 1, max: 7 }),
  num_key_value_heads: fc.integer({ min: 1, max: 4 }),
  group: fc.integer({ min: 1, max: 5 }),
  head_dim: fc.constantFrom(2, 6, 16),
  intermediate_size: fc.integer({ min: 1, max: 90 }),
  vocab_size: fc.integer({ min: 1, max: 200 }),
  tie_word_embeddings: fc.boolean(),
  attention_bias: fc.boolean(),
}).map(({ group, ...change }) =>
  tiny({ ...change, architectures: [], num_attention_heads: group * change.num_key_value_heads })
);
const anyLayout = fc.record({
  config: anyConfig,
  head: fc.constantFrom(...HEADS),
  tp: fc.integer({ min: 1, max: 8 }),
  pp: fc.integer({ min: 1, max: 5 }),
});
const legalLayout = anyLayout.filter(({ config, tp, pp }) =>
  layoutViolations(config, { tp, pp }).length === 0
);

/** Rows × columns of a tensor that a piece has. */
function cells({ slice, global }: LocalParameter): readonly [row: number, column: number][] {
  const [rows, width = 1] = global as [number, number?], all: [number, number][] = [];
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < width; c++) {
      const at = slice?.dim === 1 ? c : r;
      if (!slice || (at >= slice.from && at < slice.to)) all.push([r, c]);
    }
  }
  return all;
}

Deno.test("the pieces of all ranks are every parameter, and those that count are it exactly once", () => {
  fc.assert(
    fc.property(legalLayout, ({ config, head, tp, pp }) => {
      const ranks = shardsOf(config, head, { tp, pp }).flat();
      for (const whole of parameters(config, head)) {
        const [rows, width = 1] = whole.shape as [number, number?];
        const held = new Uint8Array(rows * width), counted = new Uint8Array(rows * width);
        const pieces = ranks.flatMap((r) => r.parameters.filter((p) => p.name === whole.name));
        for (const piece of pieces) {
          assert.deepEqual(piece.global, whole.shape);
          for (const [r, c] of cells(piece)) {
            held[r * width + c]!++;
            if (piece.counts) counted[r * width + c]!++;
          }
        }
        const { sync } = pieces[0]!, stages = sync === "tied" ? 2 : 1;
        const copies = whole.cut === null ? tp : whole.cut.by === "kvHeads" ? kvReplicas(config, tp) : stages;
        assert.ok(counted.every((n) => n === 1), `${whole.name} counts once`);
        assert.ok(held.every((n) => n === copies), `${whole.name} is held ${copies} times`);
        assert.ok(pieces.every((p) => p.sync === sync));
        // What several ranks have is summed over them, unless all of them compute it alike.
        const alike = head !== "lm" && whole.layer < 0;
        assert.equal(sync !== null, copies > 1 && !alike, whole.name);
      }
    }),
    { numRuns: 60 },
  );
});

Deno.test("a rank's parameters follow one another on cache lines, those summed over the whole group first", () => {
  fc.assert(
    fc.property(legalLayout, ({ config, head, tp, pp }) => {
      for (const shard of shardsOf(config, head, { tp, pp }).flat()) {
        let offset = 0;
        for (const p of shard.parameters) {
          assert.equal(p.offset, offset, p.name);
          assert.equal(p.elements, storedElements(p));
          assert.ok(p.elements > 0, p.name);
          offset += align(4 * p.elements);
        }
        const summed = shard.parameters.map((p) => p.sync === "tp");
        assert.equal(summed.lastIndexOf(true) + 1, summed.filter((x) => x).length);
      }
    }),
    { numRuns: 60 },
  );
});

Deno.test("ranks share heads out so that query heads are with their key and value head", () => {
  fc.assert(
    fc.property(legalLayout, ({ config, tp }) => {
      const shards = shardsOf(config, "lm", { tp, pp: 1 })[0]!, { headDim, heads, kvHeads } = config;
      const range = (s: Shard, name: string) => {
        const p = s.parameters.find((p) => p.name === `model.layers.0.self_attn.${name}.weight`)!;
        const { from, to } = p.slice ?? { from: 0, to: p.global[0]! };
        return [from / headDim, to / headDim] as const;
      };
      let next = 0;
      for (const s of shards) {
        const [from, to] = range(s, "q_proj"), [kvFrom, kvTo] = range(s, "k_proj");
        assert.equal(from, next);
        assert.deepEqual([s.heads, s.kvHeads], [to - from, kvTo - kvFrom]);
        assert.ok(s.heads > 0 && s.heads % s.kvHeads === 0);
        const group = heads / kvHeads;
        assert.deepEqual([Math.floor(from / group), Math.floor((to - 1) / group) + 1], [kvFrom, kvTo]);
        next = to;
      }
      assert.equal(next, heads);
    }),
    { numRuns: 100 },
  );
});

Deno.test("vocabulary and intermediate columns are shared out in whole panels while there are enough", () => {
  const config = tiny({
    vocab_size: 515,
    intermediate_size: 72,
    num_attention_heads: 8,
    num_key_value_heads: 8,
  });
  const parts = (tp: number) =>
    shardsOf(config, "lm", { tp, pp: 1 })[0]!.map((s) => [s.vocab.from, s.vocab.to]);
  assert.deepEqual(parts(2), [[0, 256], [256, 515]]);
  assert.deepEqual(parts(4), [[0, 128], [128, 256], [256, 384], [384, 515]]);
  const columns = (tp: number) =>
    shardsOf(config, "lm", { tp, pp: 1 })[0]!.map((s) =>
      s.parameters.find((p) => p.name.endsWith("0.mlp.up_proj.weight"))!.shape[0]
    );
  assert.deepEqual(columns(2), [32, 40]);
  assert.deepEqual(columns(4), [16, 16, 16, 24]);
  assert.deepEqual(columns(8), [9, 9, 9, 9, 9, 9, 9, 9], "five panels for eight ranks");
});

Deno.test("one rank holds the model in the order of parameters()", () => {
  for (const head of HEADS) {
    for (const config of [tiny(), tiny({ tie_word_embeddings: true, attention_bias: true })]) {
      const plain = (
        { global: _global, slice: _slice, sync: _sync, counts: _counts, ...p }: LocalParameter,
      ) => p;
      const expected = parameters(config, head).map(({ cut: _, ...p }) => p);
      const { parameters: local, ...shard } = wholeShard(config, head);
      assert.deepEqual(local.map(plain), expected);
      assert.ok(local.every((p) => p.slice === null && p.sync === null && p.counts && p.global === p.shape));
      assert.deepEqual(shard, {
        config,
        head,
        stages: 1,
        stage: 0,
        tp: 1,
        rank: 0,
        layers: { from: 0, to: config.layers },
        first: true,
        last: true,
        heads: config.heads,
        kvHeads: config.kvHeads,
        vocab: { from: 0, to: config.vocab },
      });
    }
  }
});

Deno.test("stagesOf() finds the cut whose costliest stage is cheapest", () => {
  const cost = ({ from, to }: { from: number; to: number }, c: ModelConfig, head: Head, last: boolean) => {
    const layer = c.hidden * ((2 * c.heads + 2 * c.kvHeads) * c.headDim + 3 * c.intermediate);
    return (to - from) * layer + (last ? c.hidden * (head === "lm" ? c.vocab : 1) : 0);
  };
  /** Every way to cut `layers` layers into stages. */
  const cuts = (from: number, layers: number, stages: number): { from: number; to: number }[][] =>
    stages === 1
      ? [[{ from, to: layers }]]
      : Array.from({ length: layers - stages + 1 - from }, (_, i) => from + 1 + i)
        .flatMap((to) => cuts(to, layers, stages - 1).map((rest) => [{ from, to }, ...rest]));
  fc.assert(fc.property(legalLayout, ({ config, head, pp }) => {
    const most = (cut: readonly { from: number; to: number }[]) =>
      Math.max(...cut.map((stage, i) => cost(stage, config, head, i === pp - 1)));
    const chosen = stagesOf(config, head, pp), all = cuts(0, config.layers, pp);
    assert.equal(most(chosen), Math.min(...all.map(most)));
    assert.deepEqual(chosen.map((s) => s.from), [0, ...chosen.slice(0, -1).map((s) => s.to)]);
    assert.equal(chosen.at(-1)!.to, config.layers);
    assert.ok(chosen.every((s) => s.from < s.to));
  }));
  const sizes = (vocab_size: number) =>
    stagesOf(tiny({ num_hidden_layers: 6, vocab_size }), "lm", 3).map((s) => s.to - s.from);
  assert.deepEqual(sizes(16), [2, 2, 2]);
  assert.deepEqual(
    sizes(100000),
    [2, 3, 1],
    "a large head leaves its stage one layer, and the others share the rest",
  );
});

Deno.test("layoutViolations() says everything that is wrong, and shardsOf() refuses exactly that", () => {
  const config = tiny({ num_hidden_layers: 5, num_attention_heads: 4, num_key_value_heads: 2 });
  assert.deepEqual(layoutViolations(config, { tp: 2, pp: 5 }), []);
  assert.deepEqual(layoutViolations(config, { tp: 3, pp: 7 }), [
    "has 2 stages more than its 5 layers",
    "has tp 3, neither at most its 2 key and value heads nor a multiple of them",
  ]);
  assert.deepEqual(layoutViolations(config, { tp: 6, pp: 1 }), ["has 2 tensor shards more than its 4 heads"]);
  const narrow = tiny({
    num_attention_heads: 16,
    num_key_value_heads: 16,
    intermediate_size: 10,
    vocab_size: 12,
  });
  assert.deepEqual(layoutViolations(narrow, { tp: 16, pp: 1 }), [
    "has 6 tensor shards more than its 10 intermediate columns",
    "has 4 tensor shards more than its 12 tokens",
  ]);
  assert.throws(
    () => shardsOf(config, "lm", { tp: 3, pp: 7 }),
    /^RangeError: Cannot cut the model into 7 stages of 3 .*: it has 2 stages more/,
  );
  fc.assert(fc.property(anyLayout, ({ config, head, tp, pp }) => {
    const legal = layoutViolations(config, { tp, pp }).length === 0;
    if (legal) assert.equal(shardsOf(config, head, { tp, pp }).flat().length, tp * pp);
    else assert.throws(() => shardsOf(config, head, { tp, pp }), RangeError);
  }));
});

Deno.test("with ZeRO the ranks of a data-parallel group update every element once, without it each all of them", () => {
  fc.assert(
    fc.property(legalLayout, fc.integer({ min: 1, max: 8 }), ({ config, head, tp, pp }, dp) => {
      for (const shard of shardsOf(config, head, { tp, pp }).flat()) {
        const bytes = parameterBytes(shard.parameters),
          owned = shard.parameters.map((p) => new Uint8Array(p.elements));
        let total = 0;
        for (let rank = 0; rank < dp; rank++) {
          const all = ownPieces(shard, { dp, rank, zero: 0 });
          assert.deepEqual(
            all.map((p) => [p.from, p.to, p.m, p.v]),
            shard.parameters.map((p) => [0, p.elements, p.offset, bytes + p.offset]),
          );
          const share = { dp, rank, zero: 1 } as const,
            size = momentBytes(shard, share),
            used = new Uint8Array(size / 4);
          total += size;
          for (const { parameter, from, to, m, v } of ownPieces(shard, share)) {
            assert.ok(m % 64 === 0 && v % 64 === 0 && (parameter.offset + 4 * from) % 64 === 0);
            const elements = owned[shard.parameters.indexOf(parameter)]!;
            for (let i = from; i < to; i++) elements[i]!++;
            for (const at of [m, v]) for (let i = 0; i < to - from; i++) used[at / 4 + i]!++;
          }
          assert.ok(used.every((n) => n <= 1), "moments do not overlap");
        }
        assert.equal(total, 2 * bytes);
        assert.ok(owned.every((elements) => elements.every((n) => n === 1)));
      }
    }),
    { numRuns: 30 },
  );
});
