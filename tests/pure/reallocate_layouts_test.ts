/** Reallocations between layouts that were picked by hand. */
import assert from "node:assert/strict";
import type { LocalParameter, Shard } from "../../compiler/layout.ts";
import { type Holder, type Move, reallocate, reallocationBytes } from "../../compiler/reallocate.ts";
import type { DeviceMesh } from "../../ir/plan.ts";
import { eachElement, emptyMemory, holdersOf, loaded, modelOf, wholeModel } from "./reallocate_fixtures.ts";

const shape = {
  hidden: 32,
  layers: 2,
  kvHeads: 2,
  group: 2,
  headDim: 8,
  intermediate: 48,
  vocab: 40,
  tied: false,
  biases: false,
  headNorms: false,
};
const small = { config: modelOf(shape), head: "lm" as const };
/** Llama 3 70B. */
const large = {
  config: modelOf({
    ...shape,
    hidden: 8192,
    layers: 80,
    kvHeads: 8,
    group: 8,
    headDim: 128,
    intermediate: 28672,
    vocab: 128256,
  }),
  head: "lm" as const,
};
const some = (node: number, devices: number, device = 0): DeviceMesh => ({ node, nodes: 1, device, devices });
const print = (m: Move) =>
  `${m.of} ${m.from}→${m.to} ${m.parameter} ${m.source}→${m.target} ${m.count}×${m.bytes}` +
  (m.count > 1 ? ` every ${m.sourceStride}→${m.targetStride}` : "");

/** `UPDATE_GOLDEN=1 deno test -A tests/pure/reallocate_layouts_test.ts` writes the file anew. */
Deno.test("the moves from two tensor shards to two replicas in another node are as in golden_print", async () => {
  const cluster = { devicesPerNode: 2 };
  const from = holdersOf(small, some(0, 2), { dp: 1, tp: 2, pp: 1 }, cluster);
  const to = holdersOf(small, some(1, 2), { dp: 2, tp: 1, pp: 1 }, cluster);
  const actual = reallocate(from, to, cluster).moves.map(print).join("\n") + "\n";
  const file = new URL("./golden_print/reallocation.txt", import.meta.url);
  if (Deno.env.get("UPDATE_GOLDEN") === "1") await Deno.writeTextFile(file, actual);
  assert.equal(actual, await Deno.readTextFile(file));
});

const eight = { devicesPerNode: 8 };
const strategy = (dp: number, tp: number, pp: number) => ({ dp, tp, pp });
const largeModel = holdersOf(large, some(0, 1), strategy(1, 1, 1), eight);
const bytesOf = (holders: readonly Holder[]) =>
  4 * holders[0]!.shard.parameters.reduce((n, p) => n + p.shape.reduce((n, d) => n * d, 1), 0);

Deno.test("equal layouts need nothing, and a copy of a layout is one move per rank", () => {
  const tp8 = holdersOf(large, some(0, 8), strategy(1, 8, 1), eight);
  const nothing = reallocate(tp8, holdersOf(large, some(0, 8), strategy(1, 8, 1), eight), eight);
  assert.deepEqual([nothing.moves.length, nothing.bytes, nothing.localBytes], [0, 0, 0]);
  assert.deepEqual(nothing.shared, tp8.map((h) => h.device));
  const four = (device: number) => holdersOf(large, some(0, 4, device), strategy(2, 2, 1), eight);
  const copy = reallocate(four(0), four(4), eight);
  assert.deepEqual(copy.moves.map((m) => [m.of, m.count]), Array(4).fill(["source", 1]));
  assert.equal(copy.bytes, 4 * bytesOf(four(0)));
});

Deno.test("replicas divide what another node gets among them, and so does that node what it passes on", () => {
  const from = holdersOf(large, some(0, 4), strategy(4, 1, 1), eight);
  const to = holdersOf(large, some(1, 8), strategy(8, 1, 1), eight);
  const r = reallocate(from, to, eight), bytes = bytesOf(largeModel);
  assert.equal(r.bytes, 8 * bytes);
  for (const { device } of from) assert.ok(Math.abs(r.sent.get(device)! / bytes - 1 / 4) < 1 / 50);
  for (const { device } of to) {
    assert.ok(Math.abs(r.sent.get(device)! / bytes - 7 / 8) < 1 / 50);
    assert.equal(r.received.get(device), bytes);
  }
  assert.ok(r.moves.length <= 2 * 8 * 8, `${r.moves.length} moves`);
});

Deno.test("what is too little to be divided goes into a node through one device", () => {
  const from = holdersOf(large, some(0, 8), strategy(1, 2, 4), eight);
  const to = holdersOf(large, some(1, 8), strategy(1, 8, 1), eight);
  // All norms, which every rank of the new layout has at its beginning.
  const passed = reallocate(from, to, eight).moves.filter((m) => m.of === "target");
  assert.deepEqual([passed.length, new Set(passed.map((m) => m.from)).size], [7, 1]);
});

Deno.test("a device that has part of what it needs copies it, and gets the rest only", () => {
  const one = holdersOf(small, some(0, 1), strategy(1, 1, 1), eight);
  const two = holdersOf(small, some(0, 2), strategy(1, 2, 1), eight);
  const join = reallocationBytes(two, one, eight), split = reallocationBytes(one, two, eight);
  const whole = bytesOf(one), [first, second] = two.map((h) => bytesOf([h])) as [number, number];
  assert.deepEqual([join.bytes, join.localBytes], [whole - first, first]);
  assert.deepEqual([split.bytes, split.localBytes], [second, first]);
  assert.deepEqual([...split.sent, ...split.received], [[0, second], [1, second]]);
});

Deno.test("what comes again in every layer is one move, and so is a lane that comes again in every panel", () => {
  const [from, to] = [1, 2].map((tp) => holdersOf(large, some(0, tp), strategy(1, tp, 1), eight));
  const inLayers = reallocate(from!, to!, eight).moves.filter((m) =>
    m.to === 1 && /q_proj|norm/.test(m.parameter)
  );
  assert.deepEqual(inLayers.map((m) => [m.parameter, m.count]), [
    ["model.layers.0.input_layernorm.weight", 80],
    ["model.layers.0.post_attention_layernorm.weight", 80],
    ["model.norm.weight", 1],
    ["model.layers.0.self_attn.q_proj.weight", 80],
  ]);
  // Rank 1 of 2 has two key and value heads of three, and query rows from 24 on: 8 lanes lie before a panel's end.
  const odd = { ...small, config: modelOf({ ...shape, layers: 1, kvHeads: 3, group: 3 }) };
  const join = [2, 1].map((tp) => holdersOf(odd, some(0, tp), strategy(1, tp, 1), eight));
  const lanes = reallocate(join[0]!, join[1]!, eight).moves
    .filter((m) => m.from === 1 && m.parameter.includes("q_proj"));
  assert.deepEqual(lanes.map((m) => [m.bytes, m.count, m.sourceStride, m.targetStride]), [
    [32, 3 * 32, 64, 64],
    [32, 3 * 32, 64, 64],
  ]);
});

Deno.test("a piece that lies otherwise is copied inside its device", () => {
  const from = holdersOf(small, some(0, 1), strategy(1, 1, 1), eight), { shard } = from[0]!;
  const parameters = shard.parameters.map((p) => ({ ...p, offset: p.offset + 64 }));
  const r = reallocate(from, [{ device: 0, shard: { ...shard, parameters } }], eight);
  assert.deepEqual([r.shared, r.bytes, r.localBytes], [[], 0, bytesOf(from)]);
  assert.ok(r.moves.every((m) => m.from === 0 && m.to === 0 && m.target === m.source + 64));
});

/** A rank whose layer 1 is cut like that of another model. */
function mixed(shard: Shard, other: Shard): Shard {
  let offset = 0;
  const parameters = shard.parameters.map((p, i): LocalParameter => {
    const piece = { ...(p.layer === 1 ? other.parameters[i]! : p), offset };
    offset += 64 * Math.ceil(piece.elements / 16);
    return piece;
  });
  return { ...shard, parameters };
}

Deno.test("layers may differ from one another", () => {
  const wide = { ...small, config: modelOf({ ...shape, intermediate: 80 }) };
  const layout = (tp: number, device: number): Holder[] => {
    const [a, b] = [small, wide].map((m) => holdersOf(m, some(0, tp, device), strategy(1, tp, 1), eight));
    return a!.map((h, i) => ({ ...h, shard: mixed(h.shard, b![i]!.shard) }));
  };
  const from = layout(2, 0), to = layout(1, 2), whole = wholeModel(from);
  const before = loaded(from, whole, NaN), after = emptyMemory(to, NaN);
  for (const move of reallocate(from, to, eight).moves) {
    eachElement(move, (s, t) => after.get(move.to)![t] = before.get(move.from)![s]!);
  }
  assert.deepEqual(after, loaded(to, whole, NaN));
});

Deno.test("layouts of two models, and a device with two ranks, are refused", () => {
  const one = holdersOf(small, some(0, 1), strategy(1, 1, 1), eight);
  const other = (change: Partial<typeof shape>, head: "lm" | "value" = "lm") =>
    holdersOf({ config: modelOf({ ...shape, ...change }), head }, some(0, 1, 1), strategy(1, 1, 1), eight);
  for (
    const to of [other({ vocab: 41 }), other({ layers: 3 }), other({ biases: true }), other({}, "value")]
  ) {
    assert.throws(
      () => reallocate(one, to, eight),
      /^Error: Cannot reallocate \S+: the layouts are of two models/,
    );
  }
  assert.throws(
    () => reallocate(one, [...one, ...one], eight),
    /device 0 is in one layout twice, give every rank/,
  );
});
