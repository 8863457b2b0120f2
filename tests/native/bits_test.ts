/** What must not change a bit: instruction sets, threads, packing, splits of rows, columns and sums. */
import assert from "node:assert/strict";
import { describe, selectInstructions } from "../../ffi/device.ts";
import { type Attr, OPCODE, type OpKind, POINTWISE } from "../../ir/op.ts";
import {
  assertSameBits,
  below,
  type Data,
  ends,
  floats,
  generator,
  ints,
  normal,
  type Out,
  panels,
  run,
} from "./harness.ts";

type Floats = Float32Array<ArrayBuffer>;
interface Case {
  readonly kind: OpKind;
  readonly ins: readonly Data[];
  readonly outs: readonly Out[];
  readonly attrs: readonly Attr[];
  readonly updates?: readonly Out[];
}

/** At least one case of every operation, with sizes that leave tails in every loop. */
function cases(): readonly Case[] {
  const next = generator(7), all: Case[] = [], n = (size: number, scale = 1) => normal(size, next, scale);
  const add = (
    kind: OpKind,
    ins: readonly Data[],
    outs: readonly Out[],
    attrs: readonly Attr[],
    updates?: readonly Out[],
  ) => all.push({ kind, ins, outs, attrs, ...(updates ? { updates } : {}) });
  const weight = (outputs: number, inputs: number) => panels(n(outputs * inputs), outputs, inputs);

  for (const [m, o, k] of [[1, 100, 70], [5, 37, 300], [19, 33, 29], [230, 90, 270]] as const) {
    const w = weight(o, k), x = n(m * k), dy = n(m * o);
    add("matmul", [x, w], [m * o], [m, o, k]);
    add("matmulDx", [dy, w], [m * k], [m, o, k, 0]);
    add("matmulDx", [dy, w, n(m * k)], [{ inPlace: 2 }], [m, o, k, 1]);
    add("matmulDw", [dy, x], [w.length], [m, o, k, 0]);
    add("matmulDw", [dy, x, w], [{ inPlace: 2 }], [m, o, k, 1]);
    add("addBias", [dy, n(o)], [m * o], [m, o]);
    add("columnSum", [dy], [o], [m, o, 0]);
  }
  {
    const t = 150, v = 40, h = 77, ids = below(t, v, next);
    add("embedding", [ids, n(v * h)], [t * h], [t, v, h, 0]);
    add("embedding", [ids, weight(v, h)], [t * h], [t, v, h, 1]);
    add("embeddingGrad", [ids, n(t * h)], [v * h], [t, v, h, 0, 0]);
    add("gatherRows", [n(v * h), ids], [t * h], [t, h, v]);
    add("scatterRows", [n(t * h), ids], [v * h], [t, h, v, 0]);
    const x = n(t * h), w = n(h), rstd = n(t).map(Math.abs);
    add("rmsnorm", [x, w], [t * h, t], [t, h, 1e-6]);
    add("rmsnormDx", [n(t * h), x, w, rstd], [t * h], [t, h, 0]);
    add("rmsnormDw", [n(t * h), x, rstd], [h], [t, h, 0]);
    const d = 14, table = n(50 * d);
    add("rope", [n(t * 3 * d), below(t, 50, next), table], [t * 3 * d], [t, 3, d, 1]);
  }
  for (
    const [lengths, heads, kv, d, window] of [[[3, 70, 300], 6, 2, 20, 0], [[290, 41], 2, 1, 16, 50]] as const
  ) {
    const at = ends(lengths),
      t = at.at(-1)!,
      q = n(t * heads * d),
      k = n(t * kv * d),
      v = n(t * kv * d),
      scale = d ** -.5;
    const attrs = [t, lengths.length, heads, kv, d, window, scale], lse = n(t * heads).map((x) => x + 6);
    add("attention", [q, k, v, at], [q.length, t * heads], attrs);
    add("attentionGrad", [n(q.length), q, k, v, n(q.length), lse, at], [q.length, k.length, v.length], attrs);
    const pages = 60,
      maxPages = 20,
      slots = lengths.length,
      table = Int32Array.from({ length: slots * maxPages }, (_, i) => i);
    const cache = n(2 * pages * 2 * kv * d * 16),
      rows = 4,
      at4 = below(rows, 320, next),
      in4 = below(rows, slots, next);
    add(
      "kvWrite",
      [k.slice(0, 2 * kv * d), v.slice(0, 2 * kv * d), ints(0, 1), ints(5, 77), table, new Int32Array(slots)],
      [cache],
      [2, kv, d, 1, pages, maxPages],
    );
    add("pagedAttention", [n(rows * heads * d), cache, in4, at4, table], [rows * heads * d], [
      rows,
      heads,
      kv,
      d,
      window,
      scale,
      1,
      pages,
      maxPages,
    ]);
    add("copyPages", [cache, ints(3), ints(4)], [{ inPlace: 0 }], [1, kv, d, 2, pages]);
  }
  for (const [a, h, v] of [[3, 20, 50], [140, 33, 1100]] as const) {
    const x = n(a * h),
      w = weight(v, h),
      targets = below(a, v, next),
      invT = floats(1.25),
      lse = n(a).map((y) => y + 9);
    add("linearLogprob", [x, w, targets, invT], [a, a, a], [a, h, v, 1]);
    add("linearLogprobGrad", [n(a), x, w, targets, invT, lse, n(a), n(a)], [a * h, w.length], [
      a,
      h,
      v,
      0,
      1,
    ]);
    for (const [temperature, topK, topP] of [[1, 0, 1], [.8, 30, .9], [0, 0, 1]] as const) {
      const state = () => new Int32Array(a),
        sampler = Int32Array.from({ length: 8 * a }, (_, i) => [9, 8, i >> 3, 0, 4][i & 7] ?? 0);
      const ins = [
        n(a * v, 2),
        ints(...Array(a).keys()),
        state(),
        state(),
        state(),
        state(),
        sampler,
        ints(1),
        new Int32Array(4 * a),
        new Float32Array(4 * a),
      ];
      add(
        "sample",
        ins,
        [],
        [a, v, temperature, topK, topP, 1, 4],
        [2, 3, 4, 5, 8, 9].map((inPlace) => ({ inPlace })),
      );
    }
  }
  {
    const size = 5001, x = n(size, 3), y = n(size), z = n(size), at = ends([100, 0, 4901]);
    add("swiglu", [x, y], [size], [size]);
    add("swigluGrad", [z, x, y], [size, size], [size]);
    const chain = Object.values(POINTWISE).filter((op) => op !== POINTWISE.constant).map((
      op,
    ) => [op, 0, 1, 2]).flat();
    const count = chain.length / 4;
    add("pointwise", [x, y, z], Array(count).fill(size), [
      size,
      3,
      count,
      count,
      1,
      1,
      1,
      ...chain,
      ...Array.from({ length: count }, (_, i) => 3 + i),
    ]);
    add("segmentSum", [x, at], [3], [size, 3]);
    add("segmentSpread", [n(3), at], [size], [size, 3]);
    add("segmentLast", [x, at], [3], [size, 3]);
    add("segmentAtEnd", [n(3), at], [size], [size, 3]);
    add("segmentLength", [at], [3], [3]);
    add("total", [x], [1], [size, 0]);
    add("strideGather", [x.slice(0, 5000)], [2500], [2500, 2, 1]);
    add("strideScatter", [y.slice(0, 2500)], [5000], [2500, 2, 0]);
    add("gae", [x, y, n(3), at], [size], [size, 3, .99, .95]);
    add("gradNorm", [n(70001), x], [1], [70001, size]);
    add("adamw", [x, y, z, z.map((v) => v * v), floats(.01, .1, .05), floats(2)], [{ inPlace: 0 }, {
      inPlace: 2,
    }, { inPlace: 3 }], [size, .9, .95, 1e-8, .1, 1]);
    add("copy", [x], [size], [size]);
    add("fill", [], [size], [size, 3]);
  }
  return all;
}
const execute = (c: Case, threads: number) => run(c.kind, c.ins, c.outs, c.attrs, threads, c.updates);

Deno.test("every operation gives the same bits on every instruction set and any number of threads", async () => {
  const all = cases();
  assert.deepEqual(
    Object.keys(OPCODE).filter((kind) => !all.some((c) => c.kind === kind)),
    [],
    "operations without a case",
  );
  const best = describe().isa, expected: Floats[][] = [];
  for (const c of all) expected.push(await execute(c, 1));
  try {
    for (const isa of ["generic", "avx2", "avx512"] as const) {
      if (!selectInstructions(isa)) continue;
      assert.equal(describe().isa, isa);
      for (const threads of isa === "generic" ? [2] : [1, 2, 3]) {
        for (const [i, c] of all.entries()) {
          (await execute(c, threads)).forEach((out, o) =>
            assertSameBits(
              out,
              expected[i]![o]!,
              `${c.kind} (case ${i}, output ${o}) on ${isa} and ${threads} threads against ${best}`,
            )
          );
        }
      }
    }
  } finally {
    selectInstructions("best");
  }
});

const joined = (parts: readonly Floats[]) => Float32Array.from(parts.flatMap((p) => [...p]));

Deno.test("a few rows of a product give the bits of many: 1 to 33 rows", async () => {
  const next = generator(1),
    n = 150,
    k = 300,
    x = normal(200 * k, next),
    w = panels(normal(n * k, next), n, k);
  const [y] = await run("matmul", [x, w], [200 * n], [200, n, k]);
  const dy = normal(200 * n, next), [dx] = await run("matmulDx", [dy, w], [200 * k], [200, n, k, 0]);
  for (let m = 1; m <= 33; m++) {
    const [rows] = await run("matmul", [x.slice(0, m * k), w], [m * n], [m, n, k]);
    assertSameBits(rows!, y!.slice(0, m * n), `${m} rows`);
    const [back] = await run("matmulDx", [dy.slice(0, m * n), w], [m * k], [m, n, k, 0]);
    assertSameBits(back!, dx!.slice(0, m * k), `${m} rows backwards`);
  }
});

Deno.test("splits of rows, outputs and inputs give the bits of the whole product", async () => {
  const next = generator(2);
  for (const [m, n, k] of [[200, 256, 700], [37, 690, 256], [5, 100, 1000], [1000, 48, 40]] as const) {
    const x = normal(m * k, next),
      dense = normal(n * k, next),
      w = panels(dense, n, k),
      name = `${m}×${n}×${k}`;
    const [y] = await run("matmul", [x, w], [m * n], [m, n, k]);
    const cut = (n >> 5) * 16 + 16, left = w.slice(0, cut * k), right = w.slice(cut * k);
    const [a] = await run("matmul", [x, left], [m * cut], [m, cut, k]);
    const [b] = await run("matmul", [x, right], [m * (n - cut)], [m, n - cut, k], 1);
    const columns = y!.map((_, i) => {
      const [row, j] = [Math.floor(i / n), i % n];
      return j < cut ? a![row * cut + j]! : b![row * (n - cut) + j - cut]!;
    });
    assertSameBits(columns, y!, `outputs of ${name}`);
    // K in two halves: a product is continued through matmulDx with the weight's transpose.
    const half = (k >> 1) + 3,
      dy = x,
      transposed = (from: number, to: number) => {
        const t = new Float32Array((to - from) * n);
        for (let j = from; j < to; j++) for (let i = 0; i < n; i++) t[(j - from) * n + i] = dense[i * k + j]!;
        return panels(t, to - from, n);
      };
    const part = (from: number, to: number) => dy.filter((_, i) => i % k >= from && i % k < to);
    const [first] = await run("matmulDx", [part(0, half), transposed(0, half)], [m * n], [m, half, n, 0]);
    const [both] = await run("matmulDx", [part(half, k), transposed(half, k), first!], [{ inPlace: 2 }], [
      m,
      k - half,
      n,
      1,
    ], 1);
    assertSameBits(both!, y!, `inputs of ${name}`);
  }
});

Deno.test("gradients of weights that continue over micro-batches give the bits of one batch", async () => {
  const next = generator(3), m = 777, cut = 300, n = 70, h = 45, v = 1050;
  const dy = normal(m * n, next), x = normal(m * h, next), rstd = normal(m, next), ids = below(m, 30, next);
  const halves = async (
    kind: OpKind,
    make: (from: number, to: number) => readonly Data[],
    size: number,
    attrs: (rows: number, flag: number) => number[],
    outs: readonly Out[] = [],
  ) => {
    const outsOf = (last: Out, rows: number) => [...outs.map(() => rows * h), last];
    const whole = (await run(kind, make(0, m), outsOf(size, m), attrs(m, 0))).at(-1)!;
    const first = (await run(kind, make(0, cut), outsOf(size, cut), attrs(cut, 0), 1)).at(-1)!;
    const rest = make(cut, m);
    const both =
      (await run(kind, [...rest, first], outsOf({ inPlace: rest.length }, m - cut), attrs(m - cut, 1))).at(
        -1,
      )!;
    assertSameBits(both, whole, kind);
  };
  const of = (a: Floats, width: number) => (from: number, to: number) => a.slice(from * width, to * width);
  await halves(
    "matmulDw",
    (a, b) => [of(dy, n)(a, b), of(x, h)(a, b)],
    80 * h,
    (rows, flag) => [rows, n, h, flag],
  );
  await halves("columnSum", (a, b) => [of(dy, n)(a, b)], n, (rows, flag) => [rows, n, flag]);
  await halves(
    "rmsnormDw",
    (a, b) => [of(x, h)(a, b), of(x, h)(a, b), of(rstd, 1)(a, b)],
    h,
    (rows, flag) => [rows, h, flag],
  );
  await halves(
    "embeddingGrad",
    (a, b) => [ids.slice(a, b), of(x, h)(a, b)],
    30 * h,
    (rows, flag) => [rows, 30, h, 0, flag],
  );
  await halves("total", (a, b) => [of(rstd, 1)(a, b)], 1, (rows, flag) => [rows, flag]);
  const w = panels(normal(v * h, next), v, h),
    targets = below(m, v, next),
    lse = normal(m, next).map((y) => y + 20);
  await halves(
    "linearLogprobGrad",
    (a, b) => [of(rstd, 1)(a, b), of(x, h)(a, b), w, targets.slice(a, b), floats(1), lse.slice(a, b)],
    w.length,
    (rows, flag) => [rows, h, v, flag, 0],
    [0],
  );
});

Deno.test("packing changes no bit of attention, its gradient or the head", async () => {
  const next = generator(4),
    lengths = [200, 1, 97, 31, 300, 5],
    heads = 4,
    kv = 2,
    d = 24,
    at = ends(lengths),
    t = at.at(-1)!;
  const make = (width: number) => normal(t * width, next),
    [q, dO, O] = [make(heads * d), make(heads * d), make(heads * d)];
  const [k, v] = [make(kv * d), make(kv * d)],
    attrs = (n: number, s: number) => [n, s, heads, kv, d, 0, d ** -.5];
  const sizes = (n: number) => [n * heads * d, n * heads],
    back = (n: number) => [n * heads * d, n * kv * d, n * kv * d];
  const [o, lse] = await run("attention", [q, k, v, at], sizes(t), attrs(t, lengths.length));
  const grads = await run("attentionGrad", [dO, q, k, v, O, lse!, at], back(t), attrs(t, lengths.length));
  const alone: Floats[][] = [];
  for (const [i, n] of lengths.entries()) {
    const part = (a: Floats) => a.slice((at[i]! - n) * a.length / t, at[i]! * a.length / t);
    const forward = await run("attention", [part(q), part(k), part(v), ints(n)], sizes(n), attrs(n, 1), 1);
    alone.push([
      ...forward,
      ...await run(
        "attentionGrad",
        [part(dO), part(q), part(k), part(v), part(O), part(lse!), ints(n)],
        back(n),
        attrs(n, 1),
        1,
      ),
    ]);
  }
  [o!, lse!, ...grads].forEach((whole, i) =>
    assertSameBits(joined(alone.map((a) => a[i]!)), whole, ["o", "lse", "dq", "dk", "dv"][i]!)
  );

  const rows = 300,
    h = 33,
    vocabulary = 2100,
    x = normal(rows * h, next),
    w = panels(normal(vocabulary * h, next), vocabulary, h);
  const targets = below(rows, vocabulary, next);
  const head = (a: number, b: number, threads: number) =>
    run(
      "linearLogprob",
      [x.slice(a * h, b * h), w, targets.slice(a, b), floats(1.3)],
      [b - a, b - a, b - a],
      [b - a, h, vocabulary, 1],
      threads,
    );
  const whole = await head(0, rows, 2),
    parts = [await head(0, 1, 1), await head(1, 140, 2), await head(140, rows, 1)];
  whole.forEach((y, i) =>
    assertSameBits(joined(parts.map((p) => p[i]!)), y, ["logprob", "lse", "entropy"][i]!)
  );
});
