import { RECOMPUTE } from "../../ir/plan.ts";
import assert from "node:assert/strict";
import fc from "fast-check";
import { type Buffer, planBuffers } from "../../compiler/buffers.ts";
import { compileDecode, compileInfer, compilePrefill, compileTrain } from "../../compiler/compile.ts";
import { wholeShard } from "../../compiler/layout.ts";
import { placeBesideLasting } from "../../compiler/placement.ts";
import { dim, logitsStep, type Maxima, type Op, type Value } from "../../ir/op.ts";
import { CACHE, MAXIMA, nll, SAMPLING, tiny } from "./compiler_fixtures.ts";

const overlap = (x: Buffer, y: Buffer) => x.start <= y.end && y.start <= x.end;
const share = (x: Buffer, y: Buffer) => x.offset < y.offset + y.bytes && y.offset < x.offset + x.bytes;

/** Random operations: each reads a few earlier values and makes one or two of a random size, some of them in place. */
const randomOps = fc.array(
  fc.record({
    reads: fc.array(fc.nat(1000), { maxLength: 3 }),
    sizes: fc.array(fc.integer({ min: 1, max: 400 }), { minLength: 1, maxLength: 2 }),
    inPlace: fc.boolean(),
  }),
  { minLength: 1, maxLength: 60 },
).map((steps) => {
  const values: Value[] = [], ops: Op[] = [];
  steps.forEach(({ reads, sizes, inPlace }) => {
    const ins = values.length ? reads.map((i) => values[i % values.length]!) : [];
    const make = (n: number): Value => ({
      id: values.length,
      name: `v${values.length}`,
      shape: [dim("tokens", n)],
      dtype: "f32",
    });
    if (inPlace && ins.length) {
      const out = { ...make(1), shape: ins[0]!.shape };
      values.push(out);
      ops.push({ kind: "rope", ins: [ins[0]!, ...ins.slice(1)], outs: [out], attrs: [] });
    } else {
      const outs = sizes.map((n) => {
        const v = make(n);
        values.push(v);
        return v;
      });
      ops.push({ kind: "attention", ins, outs, attrs: [] });
    }
  });
  return ops;
});
const maxima: Maxima = { ...MAXIMA, tokens: 7 };

Deno.test("planBuffers() gives no two live buffers the same byte", () => {
  fc.assert(
    fc.property(randomOps, (ops) => {
      const { buffers, arenaBytes, liveBytes } = planBuffers(ops, maxima);
      buffers.forEach((x, i) => {
        assert.ok(x.offset % 64 === 0 && x.offset + x.bytes <= arenaBytes);
        for (const y of buffers.slice(i + 1)) {
          assert.ok(!(overlap(x, y) && share(x, y)), `${x.name} and ${y.name}`);
        }
      });
      assert.ok(arenaBytes >= liveBytes);
    }),
    { numRuns: 300 },
  );
});

Deno.test("placeBesideLasting() never lays what lives together over one another, whatever the ceiling", () => {
  const item = fc.record({ bytes: fc.integer({ min: 1, max: 9 }), start: fc.nat(30), steps: fc.nat(12) });
  fc.assert(
    fc.property(fc.array(item, { maxLength: 40 }), fc.nat(60), (items, ceiling) => {
      const spans = items.map(({ start, steps }) => ({ start, end: start + steps }));
      const { offsets, top } = placeBesideLasting(items.map((x) => x.bytes), spans, ceiling);
      const all = items.map(({ bytes }, i): Buffer => ({
        name: `${i}`,
        bytes,
        offset: offsets[i]!,
        ...spans[i]!,
      }));
      all.forEach((x, i) => {
        assert.ok(x.offset >= 0 && x.offset + x.bytes <= top);
        for (const y of all.slice(i + 1)) {
          assert.ok(!(overlap(x, y) && share(x, y)), `${x.name} and ${y.name}`);
        }
      });
    }),
    { numRuns: 300 },
  );
});

Deno.test("placeBesideLasting() needs no more than what is alive at once where a layer's largest value has turns with others", () => {
  // Norm; queries, keys and values; attention; a product; a gate; a product: of layers one behind the other, beside what stays.
  const bytes = [8], spans = [{ start: 0, end: 100 }];
  const add = (size: number, start: number, end: number) => (bytes.push(size), spans.push({ start, end }));
  for (let at = 0; at < 100; at += 5) {
    add(8, at === 0 ? 0 : at - 1, at);
    for (const size of [8, 4, 4]) add(size, at, at + 1);
    add(8, at + 1, at + 2), add(1, at + 1, at + 1), add(8, at + 2, at + 3), add(13, at + 3, at + 4);
  }
  assert.equal(placeBesideLasting(bytes, spans, 33).top, 33);
});

Deno.test("planBuffers() lets a value outlive its last reader by nothing and be overwritten only by it", () => {
  fc.assert(
    fc.property(randomOps, (ops) => {
      const { places, buffers } = planBuffers(ops, maxima);
      const offset = (v: Value) => places.get(v)!.offset, lastRead = new Map<Value, number>();
      ops.forEach((op, i) => op.ins.forEach((v) => lastRead.set(v, i)));
      // Replay: whatever is written must not be a value that is read later.
      const owner = new Map<number, Value>();
      ops.forEach((op, i) => {
        for (const v of op.ins) assert.equal(owner.get(offset(v)), v, `operation ${i} reads ${v.name}`);
        for (const v of op.outs) owner.set(offset(v), v);
      });
      const used = Math.max(...buffers.map((b) => b.end));
      assert.ok(used < ops.length);
    }),
    { numRuns: 300 },
  );
});

Deno.test("planBuffers() shares memory in place only with a value that nobody reads any more", () => {
  const v = (id: number): Value => ({ id, name: `v${id}`, shape: [dim("tokens", 64)], dtype: "f32" });
  const [a, b, c] = [v(0), v(1), v(2)];
  const make: Op = { kind: "attention", ins: [], outs: [a], attrs: [] };
  const turn: Op = { kind: "rope", ins: [a], outs: [b], attrs: [] };
  const both: Op = { kind: "attention", ins: [a, b], outs: [c], attrs: [] };
  assert.equal(planBuffers([make, turn], maxima).buffers.length, 1);
  assert.equal(planBuffers([make, turn, both], maxima).buffers.length, 3);
});

Deno.test("planBuffers() never lets a sum overwrite a factor of the same product", () => {
  const v = (id: number): Value => ({ id, name: `v${id}`, shape: [dim("tokens", 64)], dtype: "f32" });
  const [x, w, other, y] = [v(0), v(1), v(2), v(3)];
  const make: Op = { kind: "attention", ins: [], outs: [x, w, other], attrs: [] };
  const product = (prior: Value): Op => ({
    kind: "matmulDx",
    ins: [x, w, prior],
    outs: [y],
    attrs: [dim("tokens"), 64, 64, 1],
  });
  assert.equal(
    planBuffers([make, product(other)], maxima).buffers.length,
    3,
    "the prior is continued in place",
  );
  assert.equal(planBuffers([make, product(x)], maxima).buffers.length, 4, "dy is the prior too");
});

Deno.test("planBuffers() shares no memory with the inputs of a chain of instructions", () => {
  let id = 100;
  const b = { x: { id: id++, name: "x", shape: [dim("tokens", 64)], dtype: "f32" } as Value };
  const out: Value = { ...b.x, id: id++, name: "y" };
  const make: Op = { kind: "attention", ins: [], outs: [b.x], attrs: [] };
  const chain = (instructions: number): Op => ({
    kind: "pointwise",
    ins: [b.x],
    outs: [out],
    attrs: [dim("tokens", 64), 1, instructions, 1, 1, ...new Array(4 * instructions).fill(0), 1],
  });
  assert.equal(planBuffers([make, chain(1)], maxima).buffers.length, 1);
  assert.equal(planBuffers([make, chain(2)], maxima).buffers.length, 2);
});

Deno.test("planBuffers() fences every buffer when it is asked for a guard", () => {
  fc.assert(fc.property(randomOps, (ops) => {
    const { buffers, arenaBytes } = planBuffers(ops, maxima, 128);
    const sorted = buffers.toSorted((x, y) => x.offset - y.offset);
    let end = 0;
    for (const b of sorted) {
      assert.ok(b.offset >= end + 128);
      end = b.offset + b.bytes;
    }
    assert.equal(arenaBytes, end + 128);
  }));
});

Deno.test("compiled programs need at most 1.1 times the bytes that are alive at once", () => {
  const longer = { ...MAXIMA, tokens: 512, actions: 300 };
  for (const maxima of [MAXIMA, longer]) {
    for (
      const change of [{}, { tie_word_embeddings: true }, {
        model_type: "qwen2",
        architectures: [],
        num_hidden_layers: 5,
      }]
    ) {
      const config = tiny(change), generate = { ...CACHE, maxima, sampling: SAMPLING };
      const programs = [
        compileInfer(wholeShard(config, "lm"), { maxima, outputs: ["logprobs", "entropy"] }),
        compileInfer(wholeShard(config, "value"), { maxima, outputs: ["values", "finalValues"] }),
        compilePrefill(wholeShard(config, "lm"), generate),
        compileDecode(wholeShard(config, "lm"), generate),
        ...RECOMPUTE.map((recompute) =>
          compileTrain(wholeShard(config, "lm"), { maxima, loss: nll(), fields: {}, recompute }).backward
        ),
      ];
      for (const p of programs) {
        const ratio = p.segmentBytes.arena / p.liveBytes;
        assert.ok(ratio >= 1 && ratio <= 1.1, `${p.name}: ${ratio}`);
      }
    }
  }
});

Deno.test("recomputation needs less memory the more is recomputed", () => {
  const maxima = { ...MAXIMA, tokens: 512, actions: 300 }, config = tiny({ num_hidden_layers: 4 });
  const [nothing, logits, cheap, layers] = RECOMPUTE.map((recompute) =>
    compileTrain(wholeShard(config, "lm"), { maxima, loss: nll(), fields: {}, recompute }).backward
      .segmentBytes
      .arena
  ) as [number, number, number, number];
  const kept = 4 * 300 * logitsStep(config.vocab);
  assert.ok(nothing > logits + kept / 2 && nothing <= logits + kept, `${nothing} ${logits} ${kept}`);
  assert.ok(cheap < 0.85 * logits && layers < 0.6 * logits, `${logits} ${cheap} ${layers}`);
});
