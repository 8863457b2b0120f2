import assert from "node:assert/strict";
import { assertClose, assertSameBits, doubles, floats, generator, normal, run } from "./harness.ts";

Deno.test("squareSums() and norm() are the Euclidean norm over all tensors", async () => {
  const next = generator(1);
  for (const sizes of [[1], [5, 70000, 16], [200000], [0, 3]]) {
    const grads = sizes.map((n) => normal(n, next)), count = sizes.length + 2;
    const squares = grads.map((g) => g.reduce((a, v) => a + v * v, 0));
    const attrs = [count, ...sizes.flatMap((n, i) => [n, sizes.length - i])];
    const [sums] = await run("squareSums", grads, [2 * count], attrs);
    const found = new Float64Array(sums!.buffer);
    assertClose(found, [0, ...squares.toReversed(), 0], 1e-13, `sums of ${sizes}`);
    const [norm] = await run("norm", [sums!], [1], [count]);
    assertSameBits(norm!, floats(Math.sqrt(squares.reduce((a, b) => a + b, 0))), `${sizes}`);
  }
  // Pieces of one parameter are added at its index.
  const [sums] = await run("squareSums", [floats(3), floats(4)], [2], [1, 1, 0, 1, 0]);
  assert.equal(new Float64Array(sums!.buffer)[0], 25);
  const [large] = await run("squareSums", [floats(1e30, 1e30)], [2], [1, 2, 0]);
  const [norm] = await run("norm", [large!], [1], [1]);
  assertClose(norm!, [Math.SQRT2 * 1e30], 1e-6, "squares beyond f32");
  const [broken] = await run("norm", [doubles(1, NaN)], [1], [2]);
  assert.ok(Number.isNaN(broken![0]));
});

const BETA1 = .9, BETA2 = .95, EPS = 1e-8;

Deno.test("adamw() takes the step of Loshchilov and Hutter, clipped by the norm", async () => {
  const next = generator(2);
  for (const [n, decay, clip, norm] of [[1, 0, 0, 100], [37, .1, 1, 4], [20000, .1, 1, .5]] as const) {
    const p = normal(n, next),
      g = normal(n, next),
      m = normal(n, next, .1),
      v = normal(n, next, .1).map((x) => x * x);
    const step = 3, lr = 1e-2, hyper = floats(lr, 1 - BETA1 ** step, 1 - BETA2 ** step);
    const scale = clip > 0 ? Math.min(1, clip / (norm + 1e-6)) : 1;
    const m1 = m.map((x, i) => BETA1 * x + (1 - BETA1) * g[i]! * scale);
    const v1 = v.map((x, i) => BETA2 * x + (1 - BETA2) * (g[i]! * scale) ** 2);
    const p1 = p.map((x, i) =>
      x * (1 - lr * decay) -
      lr * (m1[i]! / (1 - BETA1 ** step)) / (Math.sqrt(v1[i]! / (1 - BETA2 ** step)) + EPS)
    );
    const outs = [{ inPlace: 0 }, { inPlace: 2 }, { inPlace: 3 }];
    const [p2, m2, v2] = await run("adamw", [p, g, m, v, hyper, floats(norm)], outs, [
      n,
      BETA1,
      BETA2,
      EPS,
      decay,
      clip,
      0,
    ]);
    assertClose(m2!, m1, 1e-6, "first moment");
    assertClose(v2!, v1, 1e-6, "second moment");
    assertClose(p2!, p1, 1e-6, "parameter");
  }
});

Deno.test("adamw() changes nothing when the norm is not finite", async () => {
  for (const norm of [NaN, Infinity]) {
    const [p, m, v] = [floats(1, 2), floats(3, 4), floats(5, 6)];
    const outs = [{ inPlace: 0 }, { inPlace: 2 }, { inPlace: 3 }];
    const after = await run("adamw", [p, floats(NaN, 1), m, v, floats(1, .1, .1), floats(norm)], outs, [
      2,
      BETA1,
      BETA2,
      EPS,
      0,
      1,
      0,
    ]);
    [p, m, v].forEach((before, i) => assertSameBits(after[i]!, before, "unchanged"));
  }
});
