import assert from "node:assert/strict";
import { logitsStep } from "../../ir/op.ts";
import {
  assertClose,
  assertSameBits,
  below,
  floats,
  generator,
  ints,
  normal,
  panels,
  run,
} from "./harness.ts";

const SHAPES = [[1, 1, 1], [1, 40, 17], [5, 16, 100], [13, 8, 1023], [40, 24, 1025], [150, 20, 2600], [
  700,
  5,
  50,
], [0, 4, 9]] as const;

/** Logits, log-sum-exp, probabilities and entropy of softmax(x·wᵀ·invT) in double precision. */
function reference(a: number, h: number, v: number, x: Float32Array, w: Float32Array, invT: number) {
  return Array.from({ length: a }, (_, i) => {
    const s = Array.from({ length: v }, (_, j) => {
      let sum = 0;
      for (let k = 0; k < h; k++) sum += x[i * h + k]! * w[j * h + k]!;
      return sum * invT;
    });
    const top = Math.max(...s), lse = top + Math.log(s.reduce((t, y) => t + Math.exp(y - top), 0));
    const p = s.map((y) => Math.exp(y - lse));
    return { s, lse, p, entropy: -p.reduce((t, y, j) => t + y * (s[j]! - lse), 0) };
  });
}

Deno.test("linearLogprob() gives log-probabilities, log-sum-exp and entropy", async () => {
  const next = generator(1);
  for (const [a, h, v] of SHAPES) {
    const x = normal(a * h, next),
      w = normal(v * h, next),
      targets = below(a, v, next),
      invT = Math.fround(1 / .7);
    const rows = reference(a, h, v, x, w, invT), ins = [x, panels(w, v, h), targets, floats(invT)];
    const [logprob, lse, entropy] = await run("linearLogprob", ins, [a, a, a], [a, h, v, 1, 0]);
    assertClose(logprob!, rows.map((r, i) => r.s[targets[i]!]! - r.lse), 2e-6, `logprob ${a}×${h}×${v}`);
    assertClose(lse!, rows.map((r) => r.lse), 2e-6, `lse ${a}×${h}×${v}`);
    rows.forEach((r, i) =>
      assert.ok(
        Math.abs(entropy![i]! - r.entropy) < 1e-4,
        `entropy ${a}×${h}×${v}: ${entropy![i]} ${r.entropy}`,
      )
    );
    const [plain] = await run("linearLogprob", ins, [a, a], [a, h, v, 0, 0]);
    assertSameBits(plain!, logprob!, "without entropy");
  }
  await assert.rejects(
    run("linearLogprob", [floats(1), panels(floats(1), 1, 1), ints(1), floats(1)], [1, 1], [1, 1, 1, 0, 0]),
    /target 0 is 1 and there are 1/,
  );
});

Deno.test("linearLogprobGrad() agrees with the derivative of log-probability and entropy", async () => {
  const next = generator(2);
  for (const [a, h, v] of SHAPES) {
    const x = normal(a * h, next),
      w = normal(v * h, next),
      targets = below(a, v, next),
      invT = Math.fround(1 / .7);
    const rows = reference(a, h, v, x, w, invT),
      lse = floats(...rows.map((r) => r.lse)),
      entropy = floats(...rows.map((r) => r.entropy));
    const dlogprob = normal(a, next), dentropy = normal(a, next), prior = panels(normal(v * h, next), v, h);
    for (const [flag, entropyFlag] of [[0, 0], [0, 1], [1, 1], [1, 0]] as const) {
      const dx = new Float64Array(a * h), dw = new Float32Array(v * h), exact = new Float64Array(v * h);
      rows.forEach((r, i) =>
        r.p.forEach((p, j) => {
          const by = dlogprob[i]! * (Number(targets[i] === j) - p);
          const g = (by - (entropyFlag ? dentropy[i]! * p * (r.s[j]! - r.lse + r.entropy) : 0)) * invT;
          for (let k = 0; k < h; k++) {
            dx[i * h + k]! += g * w[j * h + k]!;
            exact[j * h + k]! += g * x[i * h + k]!;
          }
        })
      );
      dw.set(exact);
      const expected = panels(dw, v, h);
      if (flag) expected.forEach((g, i) => expected[i] = g + prior[i]!);
      const ins = [
        dlogprob,
        x,
        panels(w, v, h),
        targets,
        floats(invT),
        lse,
        ...(entropyFlag ? [dentropy, entropy] : []),
        ...(flag ? [prior] : []),
      ];
      const out = flag ? { inPlace: ins.length - 1 } : prior.length;
      const found = await run("linearLogprobGrad", ins, [a * h, out], [a, h, v, flag, entropyFlag, 0, v, 0]);
      assertClose(found[0]!, dx, 1e-5, `dx ${a}×${h}×${v} ${flag}${entropyFlag}`);
      assertClose(found[1]!, expected, 1e-5, `dw ${a}×${h}×${v} ${flag}${entropyFlag}`);
    }
  }
});

Deno.test("logits that are kept are products, and change no bit of what is made of them", async () => {
  const next = generator(3);
  for (const [a, h, v] of SHAPES) {
    const x = normal(a * h, next), w = panels(normal(v * h, next), v, h), targets = below(a, v, next);
    const step = logitsStep(v), ins = [x, w, targets, floats(.8)], what = `${a}×${h}×${v}`;
    const [products] = await run("matmul", [x, w], [a * v], [a, v, h]);
    for (const entropy of [0, 1]) {
      const outs = Array(2 + entropy).fill(a),
        made = await run("linearLogprob", ins, outs, [a, h, v, entropy, 0]);
      const [logits, ...rest] =
        (await run("linearLogprob", ins, [...outs, a * step], [a, h, v, entropy, step]))
          .toReversed();
      rest.reverse().forEach((y, i) => assertSameBits(y, made[i]!, `output ${i} of ${what}`));
      for (let i = 0; i < a; i++) {
        assertSameBits(
          logits!.slice(i * step, i * step + v),
          products!.slice(i * v, (i + 1) * v),
          `logits ${what}`,
        );
      }
      const more = entropy ? [normal(a, next), made[2]!] : [],
        gradient = [normal(a, next), ...ins, made[1]!, ...more];
      const sizes = [a * h, w.length],
        [dx, dw] = await run("linearLogprobGrad", gradient, sizes, [
          ...[a, h, v, 0, entropy, 0, v],
          0,
        ]);
      const kept = await run("linearLogprobGrad", [...gradient, logits!], sizes, [
        ...[a, h, v, 0, entropy, 0, v],
        step,
      ]);
      assertSameBits(kept[0]!, dx!, `dx ${what}`);
      assertSameBits(kept[1]!, dw!, `dw ${what}`);
      const [alone] = await run("linearLogprobDx", [...gradient, logits!], [a * h], [
        ...[a, h, v, entropy, 0, v],
        step,
      ]);
      assertSameBits(alone!, dx!, `dx alone ${what}`);
    }
  }
  const one = [floats(1), panels(normal(17, next), 17, 1), ints(0), floats(1)];
  await assert.rejects(
    run("linearLogprob", one, [1, 1, 16], [1, 1, 17, 0, 16]),
    /rows of 17 logits are kept 16 apart/,
  );
});
