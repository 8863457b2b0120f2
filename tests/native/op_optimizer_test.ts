import assert from "node:assert/strict";
import { assertClose, assertSameBits, floats, generator, normal, run } from "./harness.ts";

Deno.test("gradNorm() is the Euclidean norm over all tensors", async () => {
  const next = generator(1);
  for (const sizes of [[1], [5, 70000, 16], [200000]]) {
    const grads = sizes.map((n) => normal(n, next));
    const exact = Math.sqrt(grads.reduce((s, g) => g.reduce((a, v) => a + v * v, s), 0));
    const [norm] = await run("gradNorm", grads, [1], sizes);
    assertSameBits(norm!, floats(exact), `${sizes}`);
  }
  const [large] = await run("gradNorm", [floats(1e30, 1e30)], [1], [2]);
  assertClose(large!, [Math.SQRT2 * 1e30], 1e-6, "squares beyond f32");
  const [broken] = await run("gradNorm", [floats(1, NaN)], [1], [2]);
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
    ]);
    [p, m, v].forEach((before, i) => assertSameBits(after[i]!, before, "unchanged"));
  }
});
