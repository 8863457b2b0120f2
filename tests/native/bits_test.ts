/** What must not change a bit: instruction sets, threads, packing, splits of rows, columns and sums. */
import assert from "node:assert/strict";
import { describe, selectInstructions } from "../../ffi/device.ts";
import { OPCODE, type OpKind } from "../../ir/op.ts";
import { type Case, cases } from "./cases.ts";
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
    (rows, flag) => [rows, 30, h, 0, flag, 0, 30],
  );
  await halves("total", (a, b) => [of(rstd, 1)(a, b)], 1, (rows, flag) => [rows, flag]);
  const w = panels(normal(v * h, next), v, h),
    targets = below(m, v, next),
    lse = normal(m, next).map((y) => y + 20);
  await halves(
    "linearLogprobGrad",
    (a, b) => [of(rstd, 1)(a, b), of(x, h)(a, b), w, targets.slice(a, b), floats(1), lse.slice(a, b)],
    w.length,
    (rows, flag) => [rows, h, v, flag, 0, 0, v, 0],
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
      [b - a, h, vocabulary, 1, 0],
      threads,
    );
  const whole = await head(0, rows, 2),
    parts = [await head(0, 1, 1), await head(1, 140, 2), await head(140, rows, 1)];
  whole.forEach((y, i) =>
    assertSameBits(joined(parts.map((p) => p[i]!)), y, ["logprob", "lse", "entropy"][i]!)
  );
});
