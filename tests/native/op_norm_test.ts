import assert from "node:assert/strict";
import { POINTWISE, type PointwiseKind } from "../../ir/op.ts";
import { assertClose, assertSameBits, below, floats, generator, normal, run } from "./harness.ts";

const ROWS = [[1, 3], [3, 16], [5, 37], [70, 64], [2, 600], [0, 8]] as const;

Deno.test("rmsnorm(), rmsnormDx() and rmsnormDw() agree with their formulas", async () => {
  const next = generator(1), eps = 1e-5;
  for (const [r, h] of ROWS) {
    const x = normal(r * h, next), w = normal(h, next), dy = normal(r * h, next), prior = normal(r * h, next);
    const rows = Array.from({ length: r }, (_, i) => i);
    const scale = rows.map((i) => {
      let s = 0;
      for (let j = 0; j < h; j++) s += x[i * h + j]! ** 2;
      return 1 / Math.sqrt(s / h + eps);
    });
    const [y, rstd] = await run("rmsnorm", [x, w], [r * h, r], [r, h, eps]);
    assertClose(rstd!, scale, 1e-6, `rstd ${r}×${h}`);
    assertClose(
      y!,
      Float64Array.from(x, (v, i) => v * scale[Math.floor(i / h)]! * w[i % h]!),
      1e-6,
      `y ${r}×${h}`,
    );

    const dot = rows.map((i) => {
      let s = 0;
      for (let j = 0; j < h; j++) s += dy[i * h + j]! * w[j]! * x[i * h + j]!;
      return s;
    });
    const dx = Float64Array.from(x, (v, i) => {
      const row = Math.floor(i / h), k = scale[row]!;
      return dy[i]! * w[i % h]! * k - v * k ** 3 * dot[row]! / h;
    });
    const [plain] = await run("rmsnormDx", [dy, x, w, rstd!], [r * h], [r, h, 0]);
    assertClose(plain!, dx, 2e-6, `dx ${r}×${h}`);
    const [more] = await run("rmsnormDx", [dy, x, w, rstd!, prior], [{ inPlace: 4 }], [r, h, 1]);
    assertClose(more!, dx.map((v, i) => v + prior[i]!), 2e-6, `dx ${r}×${h} with a prior`);

    const dw = Float64Array.from(
      { length: h },
      (_, j) => rows.reduce((s, i) => s + dy[i * h + j]! * x[i * h + j]! * scale[i]!, 0),
    );
    const [sum] = await run("rmsnormDw", [dy, x, rstd!], [h], [r, h, 0]);
    assertClose(sum!, dw, 2e-6, `dw ${r}×${h}`);
    const [continued] = await run("rmsnormDw", [dy, x, rstd!, w], [{ inPlace: 3 }], [r, h, 1]);
    assertClose(continued!, dw.map((v, i) => v + w[i]!), 2e-6, `dw ${r}×${h} with a prior`);
  }
});

Deno.test("rope() turns each pair of halves by its position, and back", async () => {
  const next = generator(2), positions = 50;
  for (const [t, heads, d] of [[1, 1, 2], [7, 3, 8], [20, 2, 64], [5, 2, 22]] as const) {
    const table = new Float32Array(positions * d), half = d / 2;
    for (let p = 0; p < positions; p++) {
      for (let j = 0; j < half; j++) {
        table[p * d + j] = Math.cos(p / 100 ** (j / half));
        table[p * d + half + j] = Math.sin(p / 100 ** (j / half));
      }
    }
    const x = normal(t * heads * d, next), at = below(t, positions, next);
    const [y] = await run("rope", [x, at, table], [t * heads * d], [t, heads, d, 1]);
    const expected = Float64Array.from(x, (_, i) => {
      const row = at[Math.floor(i / (heads * d))]! * d, j = i % d, k = j % half;
      const c = table[row + k]!, s = table[row + half + k]!;
      return j < half ? x[i]! * c - x[i + half]! * s : x[i]! * c + x[i - half]! * s;
    });
    assertClose(y!, expected, 1e-6, `${t}×${heads}×${d}`);
    const [back] = await run("rope", [y!, at, table], [{ inPlace: 0 }], [t, heads, d, -1]);
    assertClose(back!, x, 1e-6, `inverse of ${t}×${heads}×${d}`);
  }
  await assert.rejects(
    run("rope", [floats(1, 2), Int32Array.of(3), floats(1, 0)], [2], [1, 1, 2, 1]),
    /operation 0 \(rope\): position 0 is 3 and there are 1/,
  );
});

const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));

Deno.test("swiglu() and swigluGrad() agree with their formulas", async () => {
  const next = generator(3);
  for (const n of [1, 15, 16, 17, 5000]) {
    const gate = normal(n, next, 3), up = normal(n, next), dy = normal(n, next);
    const [y] = await run("swiglu", [gate, up], [{ inPlace: 1 }], [n]);
    assertClose(y!, gate.map((g, i) => g * sigmoid(g) * up[i]!), 1e-6, `swiglu ${n}`);
    const [dgate, dup] = await run("swigluGrad", [dy, gate, up], [{ inPlace: 1 }, { inPlace: 2 }], [n]);
    const expected = gate.map((g, i) => dy[i]! * up[i]! * sigmoid(g) * (1 + g * (1 - sigmoid(g))));
    assertClose(dgate!, expected, 1e-6, `dgate ${n}`);
    assertClose(dup!, gate.map((g, i) => dy[i]! * g * sigmoid(g)), 1e-6, `dup ${n}`);
  }
});

/** One instruction applied to up to three inputs. */
const single = (op: PointwiseKind, ...ins: Float32Array<ArrayBuffer>[]) =>
  run("pointwise", ins, [ins[0]!.length], [
    ins[0]!.length,
    ins.length,
    1,
    1,
    ...ins.map(() => 1),
    POINTWISE[op],
    0,
    ins.length > 1 ? 1 : 0,
    ins.length > 2 ? 2 : 0,
    ins.length,
  ]).then(([y]) => y!);

/** Distance in units of the last place of the correctly rounded result. */
function ulps(actual: number, exact: number): number {
  const rounded = Math.fround(exact);
  if (Object.is(actual, rounded) || actual === rounded) return 0;
  const bits = (x: number) => {
    const b = new Int32Array(Float32Array.of(x).buffer)[0]!;
    return b < 0 ? -(b & 0x7fffffff) : b;
  };
  return Math.abs(bits(actual) - bits(rounded));
}

/** The library's threads take numbers below 2⁻¹²⁶ as zero. */
const flushed = (x: number) => Math.abs(x) < 2 ** -126 ? 0 : x;

Deno.test("exp and log are within one unit of the last place, and right at the edges", async () => {
  const next = generator(4), n = 200_000;
  const special = [
    0,
    -0,
    1,
    -1,
    Infinity,
    -Infinity,
    NaN,
    88.72283,
    88.73,
    -103.9,
    -104.1,
    1e-45,
    1.1754944e-38,
    3.4e38,
    2,
    .5,
  ];
  const x = Float32Array.from({ length: n }, (_, i) => special[i] ?? (next() - .5) * 208);
  const e = await single("exp", x);
  for (let i = 0; i < n; i++) {
    assert.ok(
      Number.isNaN(x[i]) ? Number.isNaN(e[i]) : ulps(e[i]!, flushed(Math.exp(x[i]!))) <= 1,
      `exp(${x[i]}) is ${e[i]}`,
    );
  }
  const p = Float32Array.from(
    { length: n },
    (_, i) => special[i] ?? (i % 2 ? 2 ** ((next() - .5) * 290) : .5 + next()),
  );
  const l = await single("log", p);
  for (let i = 0; i < n; i++) {
    const exact = Math.log(flushed(p[i]!));
    assert.ok(
      Number.isNaN(exact) ? Number.isNaN(l[i]) : ulps(l[i]!, exact) <= 1,
      `log(${p[i]}) is ${l[i]}, not ${exact}`,
    );
  }
  const s = await single("logSigmoid", x);
  for (let i = 0; i < n; i++) {
    const exact = Math.min(x[i]!, 0) - Math.log1p(Math.exp(-Math.abs(x[i]!)));
    assert.ok(
      Number.isNaN(exact) ? Number.isNaN(s[i]) : ulps(s[i]!, exact) <= 3 || exact > -1e-37,
      `logSigmoid(${x[i]}) is ${s[i]}, not ${exact}`,
    );
  }
  const g = await single("sigmoid", x);
  for (let i = 0; i < n; i++) {
    const exact = sigmoid(x[i]!);
    assert.ok(
      Number.isNaN(exact) ? Number.isNaN(g[i]) : ulps(g[i]!, exact) <= 3 || exact < 1e-37,
      `sigmoid(${x[i]}) is ${g[i]}, not ${exact}`,
    );
  }
});

Deno.test("pointwise() computes every instruction", async () => {
  const a = floats(1, -2, 0, 3, NaN, -0, 7),
    b = floats(2, -2, 1, NaN, 1, 0, -7),
    c = floats(9, 8, 7, 6, 5, 4, 3),
    f = Math.fround;
  const cases: readonly [PointwiseKind, Float32Array<ArrayBuffer>[], (i: number) => number][] = [
    ["add", [a, b], (i) => a[i]! + b[i]!],
    ["sub", [a, b], (i) => a[i]! - b[i]!],
    ["mul", [a, b], (i) => a[i]! * b[i]!],
    ["div", [a, b], (i) => f(a[i]! / b[i]!)],
    ["min", [a, b], (i) => a[i]! < b[i]! ? a[i]! : b[i]!],
    ["max", [a, b], (i) => a[i]! > b[i]! ? a[i]! : b[i]!],
    ["neg", [a], (i) => -a[i]!],
    ["lt", [a, b], (i) => Number(a[i]! < b[i]!)],
    ["ge", [a, b], (i) => Number(a[i]! >= b[i]!)],
    ["where", [a, b, c], (i) => a[i] !== 0 ? b[i]! : c[i]!],
    ["abs", [a], (i) => Math.abs(a[i]!)],
    ["sqrt", [a], (i) => f(Math.sqrt(a[i]!))],
    ["sign", [a], (i) => Math.sign(a[i]!)],
  ];
  for (const [op, ins, expected] of cases) {
    const y = await single(op, ...ins);
    assert.deepEqual([...y], [...a.keys()].map(expected), op);
  }
});

Deno.test("pointwise() runs a chain with constants, broadcast scalars and several outputs", async () => {
  const next = generator(5), n = 9001, x = normal(n, next), s = floats(3), P = POINTWISE;
  // r2 = 0.5, r3 = x·s, r4 = r3 + 0.5, r5 = max(r4, x)
  const code = [P.constant, .5, 0, 0, P.mul, 0, 1, 0, P.add, 3, 2, 0, P.max, 4, 0, 0];
  const [y, z] = await run("pointwise", [x, s], [n, n], [n, 2, 4, 2, 1, 0, ...code, 5, 3]);
  const r3 = x.map((v) => v * 3);
  assertSameBits(z!, r3, "x·s");
  assertSameBits(y!, r3.map((v, i) => Math.max(Math.fround(v + .5), x[i]!)), "max");
});
