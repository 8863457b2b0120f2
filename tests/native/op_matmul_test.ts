import assert from "node:assert/strict";
import { toBfloat16 } from "../../engine/half.ts";
import { assertClose, assertSameBits, floats, generator, normal, panels, run } from "./harness.ts";

/** What the library promises: c = fma(a, b, c) over k in order. `Math.fround` of a double product is exact up to one rounding. */
const product = (m: number, n: number, k: number, at: (i: number, j: number, p: number) => number) =>
  Float64Array.from({ length: m * n }, (_, e) => {
    let s = 0;
    for (let p = 0; p < k; p++) s += at(Math.floor(e / n), e % n, p);
    return s;
  });
const plus = (a: ArrayLike<number>, b: ArrayLike<number>) => Float64Array.from(a, (x, i) => x + b[i]!);

const SHAPES = [
  [1, 1, 1],
  [1, 16, 7],
  [1, 130, 300],
  [2, 33, 17],
  [3, 50, 64],
  [5, 100, 257],
  [7, 16, 16],
  [8, 48, 40],
  [13, 31, 90],
  [14, 32, 256],
  [15, 17, 513],
  [29, 64, 33],
  [33, 40, 5],
  [200, 90, 70],
  [470, 20, 30],
  [3, 5, 0],
  [0, 8, 8],
] as const;

Deno.test("matmul() multiplies rows with a weight in panels", async () => {
  const next = generator(1);
  for (const [m, n, k] of SHAPES) {
    const x = normal(m * k, next), w = normal(n * k, next);
    const [y] = await run("matmul", [x, panels(w, n, k)], [m * n], [m, n, k]);
    assertClose(y!, product(m, n, k, (i, j, p) => x[i * k + p]! * w[j * k + p]!), 2e-6, `${m}×${n}×${k}`);
  }
});

Deno.test("matmulDx() multiplies output gradients with a weight, and continues a prior", async () => {
  const next = generator(2);
  for (const [m, n, k] of SHAPES) {
    const dy = normal(m * n, next), w = normal(n * k, next), prior = normal(m * k, next), p = panels(w, n, k);
    const expected = product(m, k, n, (i, j, o) => dy[i * n + o]! * w[o * k + j]!);
    const [dx] = await run("matmulDx", [dy, p], [m * k], [m, n, k, 0]);
    assertClose(dx!, expected, 2e-6, `${m}×${n}×${k}`);
    for (const out of [{ inPlace: 2 }, m * k]) {
      const [more] = await run("matmulDx", [dy, p, prior], [out], [m, n, k, 1]);
      assertClose(more!, plus(expected, prior), 2e-6, `${m}×${n}×${k} with a prior`);
    }
  }
});

Deno.test("matmulDx() of many rows, wider and deeper than fits at once, has the bits of few", async () => {
  const next = generator(5);
  for (const [m, n, k] of [[67, 300, 1430], [64, 16, 1425], [130, 529, 720]] as const) {
    const dy = normal(m * n, next), w = panels(normal(n * k, next), n, k), prior = normal(m * k, next);
    for (const flag of [0, 1]) {
      const more = (from: number, to: number) => flag ? [prior.slice(from * k, to * k)] : [];
      const [dx] = await run("matmulDx", [dy, w, ...more(0, m)], [m * k], [m, n, k, flag]);
      for (let i = 0; i < m; i += 25) {
        const rows = Math.min(25, m - i), part = dy.slice(i * n, (i + rows) * n);
        const [few] = await run("matmulDx", [part, w, ...more(i, i + rows)], [rows * k], [rows, n, k, flag]);
        assertSameBits(dx!.slice(i * k, (i + rows) * k), few!, `${m}×${n}×${k} from row ${i}`);
      }
    }
  }
});

Deno.test("matmulDw() sums over rows into panels, with zeros past the outputs", async () => {
  const next = generator(3);
  for (const [m, n, k] of SHAPES) {
    const dy = normal(m * n, next), x = normal(m * k, next), prior = panels(normal(n * k, next), n, k);
    const dense = product(n, k, m, (i, j, t) => dy[t * n + i]! * x[t * k + j]!);
    const expected = panels(Float32Array.from(dense), n, k);
    const [dw] = await run("matmulDw", [dy, x], [expected.length], [m, n, k, 0]);
    assertClose(dw!, expected, 2e-6, `${m}×${n}×${k}`);
    for (let i = 0; i < expected.length; i++) {
      if ((i & 15) + (Math.floor(i / (16 * k)) * 16) >= n) {
        assert.equal(dw![i], 0, `padding of ${m}×${n}×${k}`);
      }
    }
    for (const out of [{ inPlace: 2 }, expected.length]) {
      const [more] = await run("matmulDw", [dy, x, prior], [out], [m, n, k, 1]);
      assertClose(more!, plus(expected, prior), 2e-6, `${m}×${n}×${k} with a prior`);
    }
  }
});

Deno.test("addBias() and columnSum() walk rows in order", async () => {
  const next = generator(4);
  for (const [m, n] of [[1, 1], [7, 33], [300, 70], [0, 5]] as const) {
    const x = normal(m * n, next), b = normal(n, next);
    const [y] = await run("addBias", [x, b], [{ inPlace: 0 }], [m, n]);
    assertSameBits(y!, Float32Array.from(x, (v, i) => Math.fround(v + b[i % n]!)), `addBias ${m}×${n}`);
    const sums = (start: Float32Array) => {
      const s = start.slice();
      for (let i = 0; i < m; i++) for (let j = 0; j < n; j++) s[j] = s[j]! + x[i * n + j]!;
      return s;
    };
    const [db] = await run("columnSum", [x], [n], [m, n, 0]);
    assertSameBits(db!, sums(new Float32Array(n)) as Float32Array<ArrayBuffer>, `columnSum ${m}×${n}`);
    const [more] = await run("columnSum", [x, b], [{ inPlace: 1 }], [m, n, 1]);
    assertSameBits(more!, sums(b) as Float32Array<ArrayBuffer>, `columnSum ${m}×${n} with a prior`);
  }
});

Deno.test("matmul() keeps a NaN in its own row", async () => {
  const [y] = await run("matmul", [floats(NaN, 1, 2, 3), panels(floats(1, 1, 2, 2), 2, 2)], [4], [2, 2, 2]);
  assert.deepEqual([...y!], [NaN, NaN, 5, 10]);
});

Deno.test("a row of a decode step in bf16 has the same bits in any batch", async () => {
  const n = 70, k = 200, most = 128, next = generator(31), x = toBfloat16(normal(most * k, next));
  const w = toBfloat16(normal(n * k, next));
  const product = async (from: number, to: number) => {
    const out = new Uint16Array((to - from) * n), rows = x.slice(from * k, to * k);
    return (await run("matmul", [rows, w], [out], [to - from, n, k, 0, 0]))[0]!;
  };
  const all = await product(0, most);
  for (const [from, to] of [[0, 1], [5, 8], [16, 32], [100, 117], [30, 127]] as const) {
    assertSameBits(await product(from, to), all.slice(from * n, to * n), `rows ${from} … ${to}`);
  }
});
