/** Programs before and after `join.ts`: the same bits in everything that is left. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { Builder } from "../../compiler/builder.ts";
import { join } from "../../compiler/join.ts";
import { DeviceSegment, LoadedProgram } from "../../ffi/device.ts";
import { align, elements, type Op, type Value } from "../../ir/op.ts";
import { assertSameBits, device, generator, normal, ONE, program } from "./harness.ts";

interface Layer {
  readonly rows: number;
  readonly kv: number;
  readonly group: number;
  readonly width: number;
  readonly normed: boolean;
  readonly cached: boolean;
  readonly keep: boolean;
  readonly seed: number;
}

const PAGES = 4, MOST_ROWS = 12;

/** A layer's operations as the compiler records them, without its products, forward and backward. */
function record({ rows, kv, group, width, normed, cached, keep }: Layer) {
  const b = new Builder(() => 64), hidden = kv * group * width;
  const input = (name: string, ...shape: [number, ...number[]]) => b.value(name, shape);
  const integers = (name: string, n: number) => b.value(name, [n], { dtype: "i32" });
  const x = input("x", rows, hidden), r = input("r", rows, hidden), k = input("k", rows, kv * width);
  const w = input("w", hidden), heads = input("head", width), table = input("table", MOST_ROWS, width);
  const positions = integers("positions", rows), slots = integers("slots", rows);
  const sum = b.pointwise("add", x, r), n = b.rmsnorm(sum, w, 1e-5);
  const rotated = (y: Value) => b.rope(normed ? b.rmsnorm(y, heads, 1e-6) : y, positions, table);
  const q = rotated(n), key = rotated(k), seen = keep ? [b.pointwise("neg", key)] : [];
  const ins = [x, r, k, w, heads, table, positions, slots];
  if (cached) {
    const pageTable = integers("pages", 2 * PAGES),
      finished = integers("finished", 2),
      v = input("v", rows, kv * width);
    const cache = input("cache", 2 * PAGES * 2 * kv * width * 16);
    b.emit("kvWrite", [key, v, slots, positions, pageTable, finished], [cache], [
      rows,
      kv,
      width,
      0,
      2 * PAGES,
      PAGES,
    ]);
    return { ops: b.ops, ins: [...ins, pageTable, finished, v], outs: [sum, n, q, cache, ...seen] };
  }
  const norm = b.ops.find((op) => op.kind === "rmsnorm")!,
    dx = input("dx", rows, hidden),
    dw = input("dw", hidden);
  const back = [q, key].map((y) => b.rope(y, positions, table, -1));
  b.emit("rmsnormDw", [q, sum, norm.outs[1]!], [dw], [rows, hidden, 0]);
  b.emit("rmsnormDx", [q, sum, w, norm.outs[1]!, n], [dx], [rows, hidden, 1]);
  return { ops: b.ops, ins, outs: [sum, n, q, key, ...back, dx, dw, ...seen] };
}

/** Everything at a place of its own; `outs` as they are afterwards. */
async function results(ops: readonly Op[], ins: readonly Value[], outs: readonly Value[], seed: number) {
  const places = new Map<Value, number>(), next = generator(seed);
  const size = (v: Value) => elements(v.shape, ONE);
  let at = 0;
  for (const v of [...ins, ...outs, ...ops.flatMap((op) => [...op.ins, ...op.outs])]) {
    if (places.has(v)) continue;
    places.set(v, at);
    at = align(at + 4 * size(v)) + 64;
  }
  using arena = new DeviceSegment(at), loaded = LoadedProgram.load(program(ops, places, at));
  for (const v of ins) {
    const n = size(v), of = (f: (i: number) => number) => Int32Array.from({ length: n }, (_, i) => f(i));
    const known: Record<string, Int32Array<ArrayBuffer>> = {
      positions: of((i) => i),
      slots: of((i) => i % 2),
      pages: of((i) => 2 * PAGES - 1 - i),
      finished: new Int32Array(n),
    };
    arena.write(places.get(v)!, known[v.name] ?? normal(n, next));
  }
  await device(2).submit(loaded, { arena }, ONE).done;
  return outs.map((v) => arena.read(places.get(v)!, new Float32Array(size(v))));
}

Deno.test("a program of joined operations has the bits of the one that was recorded", async () => {
  const seen = new Set<string>();
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        rows: fc.integer({ min: 1, max: MOST_ROWS }),
        kv: fc.integer({ min: 1, max: 3 }),
        group: fc.integer({ min: 1, max: 3 }),
        width: fc.constantFrom(2, 16, 40, 64, 128),
        normed: fc.boolean(),
        cached: fc.boolean(),
        keep: fc.boolean(),
        seed: fc.nat(1000),
      }),
      async (layer) => {
        const { ops, ins, outs } = record(layer), joined = join(ops);
        const expected = await results(ops, ins, outs, layer.seed),
          found = await results(joined, ins, outs, layer.seed);
        found.forEach((x, i) =>
          assertSameBits(x, expected[i]!, `${outs[i]!.name} of ${JSON.stringify(layer)}`)
        );
        assert.ok(joined.length < ops.length);
        joined.forEach((op) => seen.add(op.kind));
      },
    ),
    { numRuns: 60 },
  );
  for (const kind of ["addRmsnorm", "rmsnormGrad", "ropes", "ropeKvWrite"]) assert.ok(seen.has(kind), kind);
});

interface Products {
  readonly rows: number;
  readonly inputs: number;
  readonly outputs: readonly number[];
  readonly biased: boolean;
  readonly inPanels: boolean;
  readonly kept: boolean;
  readonly seed: number;
}

/** Products of the same rows, and a gate. */
function recordProducts({ rows, inputs, outputs, biased, inPanels, kept }: Products) {
  const b = new Builder(() => 64), x = b.value("x", [rows, inputs]), ins = [x];
  const input = (name: string, ...shape: [number, ...number[]]) => {
    ins.push(b.value(name, shape));
    return ins.at(-1)!;
  };
  const product = (n: number, bias: boolean) => {
    const w = input("w", inPanels ? 16 * Math.ceil(n / 16) : n, inputs), y = b.value("y", [rows, n]);
    const more = bias ? [input("bias", n)] : [];
    b.emit("matmul", [x, w, ...more], [y], [rows, n, inputs, Number(inPanels), more.length]);
    return y;
  };
  const some = outputs.map((n) => product(n, biased)),
    [gate, up] = [product(outputs[0]!, false), product(outputs[0]!, false)];
  return { ops: b.ops, ins, outs: [...some, b.swiglu(gate, up), ...kept ? [b.pointwise("neg", gate)] : []] };
}

Deno.test("a program of joined products has the bits of the one that was recorded", async () => {
  const seen = new Set<string>();
  await fc.assert(
    fc.asyncProperty(
      fc.record({
        rows: fc.integer({ min: 1, max: 70 }),
        inputs: fc.integer({ min: 1, max: 80 }),
        outputs: fc.array(fc.integer({ min: 1, max: 50 }), { minLength: 1, maxLength: 5 }),
        biased: fc.boolean(),
        inPanels: fc.boolean(),
        kept: fc.boolean(),
        seed: fc.nat(1000),
      }),
      async (products) => {
        const { ops, ins, outs } = recordProducts(products), joined = join(ops);
        const expected = await results(ops, ins, outs, products.seed);
        const found = await results(joined, ins, outs, products.seed);
        found.forEach((x, i) =>
          assertSameBits(x, expected[i]!, `${outs[i]!.name} of ${JSON.stringify(products)}`)
        );
        assert.ok(joined.length < ops.length);
        joined.forEach((op) => seen.add(op.kind));
      },
    ),
    { numRuns: 60 },
  );
  for (const kind of ["matmul2", "matmul3", "gatedMatmul"]) assert.ok(seen.has(kind), kind);
});
