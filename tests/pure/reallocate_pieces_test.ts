import assert from "node:assert/strict";
import fc from "fast-check";
import type { LocalParameter } from "../../compiler/layout.ts";
import { copyRows, readLocal, rowsHeld, slabOf, writeLocal } from "../../compiler/pieces.ts";
import { fromStored, toStored } from "../stored.ts";
import { loaded, pairs, wholeModel } from "./reallocate_fixtures.ts";

const piece = (
  global: readonly number[],
  slice: LocalParameter["slice"],
  layout: "rows" | "panels",
): LocalParameter => {
  const shape = global.map((n, dim) => slice?.dim === dim ? slice.to - slice.from : n);
  const [n = 1, k = 1] = shape, elements = layout === "panels" ? 16 * Math.ceil(n / 16) * k : n * k;
  const rest = {
    matrix: shape.length === 2,
    layer: 0,
    dtype: "f32",
    gradient: "f32",
    init: "normal",
    offset: 64,
    sync: null,
    counts: true,
  } as const;
  return { name: "w", global, slice, shape, layout, elements, ...rest };
};
const counted = (n: number) => Float32Array.from({ length: n }, (_, i) => i + 1);

const pieces = fc.record({
  rows: fc.integer({ min: 1, max: 70 }),
  columns: fc.option(fc.integer({ min: 1, max: 300 })),
  layout: fc.constantFrom("rows" as const, "panels" as const),
  dim: fc.constantFrom(0 as const, 1 as const),
  bounds: fc.tuple(fc.double({ min: 0, max: 1, noNaN: true }), fc.double({ min: 0, max: 1, noNaN: true })),
}).map(({ rows, columns, layout, dim, bounds }) => {
  const global = columns === null ? [rows] : [rows, columns], n = global[dim];
  if (n === undefined) return piece(global, null, "rows");
  const [a, b] = bounds.map((x) => Math.floor(x * n)).sort((a, b) => a - b) as [number, number];
  return piece(
    global,
    { dim, from: a, to: Math.max(b, a + 1) > n ? n : Math.max(b, a + 1) },
    columns === null ? "rows" : layout,
  );
});

Deno.test("writeLocal() and readLocal() of a whole parameter are toStored() and fromStored()", () => {
  fc.assert(
    fc.property(pieces, ({ global, layout }) => {
      const p = piece(global, null, layout), whole = counted(global.reduce((n, d) => n * d, 1));
      const stored = new Float32Array(p.elements), back = new Float32Array(whole.length);
      writeLocal(p, whole, stored);
      assert.deepEqual(stored, toStored(p, whole));
      readLocal(p, stored, back);
      assert.deepEqual(back, fromStored(p, stored));
    }),
  );
});

Deno.test("slabOf() cuts a piece into rows that are written one after the other", () => {
  fc.assert(
    fc.property(pieces, fc.integer({ min: 1, max: 3 }), (p, panels) => {
      fc.pre(p.layout === "rows" || p.slice?.dim !== 0 || p.slice.from % 16 === 0);
      const [rows, columns = 1] = p.global as [number, number?], whole = counted(rows * columns);
      const expected = new Float32Array(p.elements), stored = new Float32Array(p.elements);
      writeLocal(p, whole, expected);
      for (let from = 0; from < rows; from += 16 * panels) {
        const to = Math.min(rows, from + 16 * panels), slab = slabOf(p, { from, to });
        if (!slab) continue;
        const { piece, first } = slab, own = new Float32Array(piece.elements);
        writeLocal(piece, whole.subarray(from * columns, to * columns), own);
        stored.set(own, first);
      }
      assert.deepEqual(stored, expected);
    }),
  );
});

Deno.test("rowsHeld() names panels from which any rows of a piece can be taken", () => {
  fc.assert(
    fc.property(pieces, fc.integer({ min: 1, max: 40 }), (p, step) => {
      const [rows, columns = 1] = p.global as [number, number?], whole = counted(rows * columns);
      const stored = new Float32Array(p.elements), expected = new Float32Array(whole.length).fill(-2);
      writeLocal(p, whole, stored);
      readLocal(p, stored, expected);
      const back = new Float32Array(whole.length).fill(-2);
      for (let from = 0; from < rows; from += step) {
        const held = rowsHeld(p, { from, to: Math.min(rows, from + step) });
        if (!held) continue;
        const { own, padded } = held, slab = slabOf(p, padded)!;
        const all = new Float32Array((padded.to - padded.from) * columns).fill(-3);
        readLocal(slab.piece, stored.subarray(slab.first, slab.first + slab.piece.elements), all);
        copyRows(p, { from: padded.from, values: all }, { from: 0, values: back }, own);
        if (held.whole) assert.deepEqual(own, padded);
      }
      assert.deepEqual(back, expected);
    }),
  );
});

Deno.test("writeLocal() puts a slice's elements where ir/op.ts says, readLocal() takes them back, and neither touches the rest", () => {
  fc.assert(
    fc.property(pieces, (p) => {
      const [rows, columns = 1] = p.global as [number, number?], [, width = 1] = p.shape;
      const whole = counted(rows * columns), stored = new Float32Array(p.elements).fill(-1);
      const expected = stored.slice(), back = new Float32Array(whole.length).fill(-2), taken = back.slice();
      const from = p.slice ?? { dim: 0, from: 0, to: rows };
      for (let n = 0; n < rows; n++) {
        for (let k = 0; k < columns; k++) {
          const at = from.dim === 0 ? n : k, x = whole[n * columns + k]!;
          if (at < from.from || at >= from.to) continue;
          const [i, j] = from.dim === 0 ? [n - from.from, k] : [n, k - from.from];
          const place = p.layout === "rows" ? i * width + j : (i >> 4) * 16 * width + 16 * j + (i & 15);
          expected[place] = x;
          taken[n * columns + k] = x;
        }
      }
      writeLocal(p, whole, stored);
      assert.deepEqual(stored, expected);
      readLocal(p, stored, back);
      assert.deepEqual(back, taken);
    }),
  );
});

Deno.test("the ranks of any layout hold the whole model", () => {
  fc.assert(
    fc.property(pairs, ({ from: { holders } }) => {
      const whole = wholeModel(holders), memory = loaded(holders, whole, NaN);
      const back = new Map([...whole].map(([name, x]) => [name, new Float32Array(x.length)]));
      for (const { device, shard } of holders) {
        for (const p of shard.parameters) {
          const start = p.offset / 4, stored = memory.get(device)!.subarray(start, start + p.elements);
          readLocal(p, stored, back.get(p.name)!);
        }
      }
      assert.deepEqual(back, whole);
    }),
    { numRuns: 50 },
  );
});

Deno.test("writeLocal() and readLocal() refuse a wrong number of values", () => {
  const p = piece([20, 3], { dim: 0, from: 4, to: 12 }, "panels");
  assert.throws(
    () => writeLocal(p, counted(59), counted(48)),
    /w: 59 values of the whole and 48 stored, give 60 and 48/,
  );
  assert.throws(
    () => readLocal(p, counted(24), counted(60)),
    /w: 60 values of the whole and 24 stored, give 60 and 48/,
  );
});
