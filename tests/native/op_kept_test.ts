/** Log-probabilities under the tokens that truncated sampling kept, against double precision, and what `sampleKept` stores. */
import assert from "node:assert/strict";
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

type Floats = Float32Array<ArrayBuffer>;
const SHAPES = [[1, 1, 1, 1], [1, 40, 17, 3], [5, 33, 100, 16], [13, 8, 1023, 40], [30, 24, 1025, 100], [
  3,
  5,
  2000,
  1024,
], [0, 4, 9, 2]] as const;

/** Lists of different ids for each row, −1 behind them, and one of them as the target. */
function lists(a: number, v: number, width: number, next: () => number) {
  const kept = new Int32Array(a * width).fill(-1), targets = new Int32Array(a);
  for (let i = 0; i < a; i++) {
    const count = 1 + Math.floor(next() * Math.min(v, width)), ids = new Set<number>();
    while (ids.size < count) ids.add(Math.floor(next() * v));
    const sorted = [...ids].sort((x, y) => x - y);
    kept.set(sorted, i * width);
    targets[i] = sorted[Math.floor(next() * count)]!;
  }
  return { kept, targets };
}
const listOf = (kept: Int32Array, i: number, width: number) =>
  [...kept.subarray(i * width, (i + 1) * width)].filter((id) => id >= 0);

const invT = Math.fround(1 / .7);
function reference(x: Floats, w: Floats, h: number, width: number, kept: Int32Array) {
  return Array.from({ length: x.length / h }, (_, i) => {
    const ids = listOf(kept, i, width);
    const s = ids.map((id) => {
      let sum = 0;
      for (let k = 0; k < h; k++) sum += x[i * h + k]! * w[id * h + k]!;
      return sum * invT;
    });
    const top = Math.max(...s), lse = top + Math.log(s.reduce((t, y) => t + Math.exp(y - top), 0));
    const p = s.map((y) => Math.exp(y - lse));
    return { ids, s, lse, p, entropy: -p.reduce((t, y, j) => t + y * (s[j]! - lse), 0) };
  });
}

Deno.test("keptLogits() and keptLogprob() give log-probabilities over the kept tokens", async () => {
  const next = generator(1);
  for (const [a, h, v, width] of SHAPES) {
    const x = normal(a * h, next), w = normal(v * h, next), { kept, targets } = lists(a, v, width, next);
    const rows = reference(x, w, h, width, kept), what = `${a}×${h}×${v}, ${width} kept`;
    const [z] = await run("keptLogits", [x, panels(w, v, h), kept], [a * width], [a, h, v, width, 0, v]);
    const [all] = await run("matmul", [x, panels(w, v, h)], [a * v], [a, v, h]);
    assertSameBits(
      z!,
      z!.map((_, e) => kept[e]! < 0 ? 0 : all![Math.floor(e / width) * v + kept[e]!]!),
      what,
    );
    const ins = [z!, kept, targets, floats(invT)];
    const [logprob, lse, entropy] = await run("keptLogprob", ins, [a, a, a], [a, width, 1]);
    assertClose(logprob!, rows.map((r, i) => r.s[r.ids.indexOf(targets[i]!)]! - r.lse), 2e-6, what);
    assertClose(lse!, rows.map((r) => r.lse), 2e-6, what);
    rows.forEach((r, i) => assert.ok(Math.abs(entropy![i]! - r.entropy) < 1e-4, `entropy ${what}`));
    const [plain] = await run("keptLogprob", ins, [a, a], [a, width, 0]);
    assertSameBits(plain!, logprob!, "without entropy");
  }
});

Deno.test("over all tokens, keptLogprob() is linearLogprob() to the bit", async () => {
  const next = generator(3),
    a = 9,
    h = 20,
    v = 700,
    x = normal(a * h, next),
    w = panels(normal(v * h, next), v, h);
  const kept = Int32Array.from({ length: a * v }, (_, e) => e % v), targets = below(a, v, next);
  const [z] = await run("keptLogits", [x, w, kept], [a * v], [a, h, v, v, 0, v]);
  const some = await run("keptLogprob", [z!, kept, targets, floats(invT)], [a, a, a], [a, v, 1]);
  const all = await run("linearLogprob", [x, w, targets, floats(invT)], [a, a, a], [a, h, v, 1, 0]);
  all.forEach((whole, i) => assertSameBits(some[i]!, whole, `output ${i}`));
});

Deno.test("the gradients of the kept tokens agree with the derivative", async () => {
  const next = generator(2);
  for (const [a, h, v, width] of SHAPES) {
    const x = normal(a * h, next), w = normal(v * h, next), { kept, targets } = lists(a, v, width, next);
    const rows = reference(x, w, h, width, kept), dlogprob = normal(a, next), dentropy = normal(a, next);
    const [z] = await run("keptLogits", [x, panels(w, v, h), kept], [a * width], [a, h, v, width, 0, v]);
    const [, lse, entropy] = await run("keptLogprob", [z!, kept, targets, floats(invT)], [a, a, a], [
      a,
      width,
      1,
    ]);
    for (const withEntropy of [0, 1]) {
      const expected = new Float64Array(a * width),
        dx = new Float64Array(a * h),
        dw = new Float64Array(v * h);
      rows.forEach((r, i) =>
        r.ids.forEach((id, j) => {
          const by = dlogprob[i]! * (Number(id === targets[i]) - r.p[j]!);
          const g = (by - (withEntropy ? dentropy[i]! * r.p[j]! * (r.s[j]! - r.lse + r.entropy) : 0)) * invT;
          expected[i * width + j] = g;
          for (let k = 0; k < h; k++) {
            dx[i * h + k]! += g * w[id * h + k]!;
            dw[id * h + k]! += g * x[i * h + k]!;
          }
        })
      );
      const ins = [
        dlogprob,
        z!,
        kept,
        targets,
        floats(invT),
        lse!,
        ...(withEntropy ? [dentropy, entropy!] : []),
      ];
      const [dz] = await run("keptLogprobGrad", ins, [a * width], [a, width, withEntropy]);
      const what = `${a}×${h}×${v}, ${width} kept, ${withEntropy}`;
      assertClose(dz!, expected, 1e-5, `dz ${what}`);
      const [foundX] = await run("keptLogitsDx", [dz!, panels(w, v, h), kept], [a * h], [
        a,
        h,
        v,
        width,
        0,
        v,
      ]);
      assertClose(foundX!, dx, 1e-5, `dx ${what}`);
      const prior = normal(v * h, next);
      for (const flag of [0, 1]) {
        const sum = panels(Float32Array.from(dw, (g, i) => g + flag * prior[i]!), v, h);
        const out = flag ? { inPlace: 3 } : sum.length;
        const [foundW] = await run(
          "keptLogitsDw",
          [dz!, x, kept, ...(flag ? [panels(prior, v, h)] : [])],
          [out],
          [a, h, v, width, flag, 0, v],
        );
        assertClose(foundW!, sum, 1e-5, `dw ${what} ${flag}`);
      }
    }
  }
});

Deno.test("the kept tokens of shards add up to those of the whole", async () => {
  const next = generator(4), a = 20, h = 24, total = 40, width = 9;
  const x = normal(a * h, next), w = normal(total * h, next), { kept } = lists(a, total, width, next);
  const dz = normal(a * width, next).map((g, e) => kept[e]! < 0 ? 0 : g);
  const [z] = await run("keptLogits", [x, panels(w, total, h), kept], [a * width], [
    a,
    h,
    total,
    width,
    0,
    total,
  ]);
  const [dw] = await run("keptLogitsDw", [dz, x, kept], [panels(w, total, h).length], [
    a,
    h,
    total,
    width,
    0,
    0,
    total,
  ]);
  for (const cut of [[0, 16, 40], [0, 1, 2, 32, 40]]) {
    const sum = new Float32Array(a * width);
    for (let r = 0; r + 1 < cut.length; r++) {
      const first = cut[r]!,
        v = cut[r + 1]! - first,
        part = panels(w.slice(first * h, (first + v) * h), v, h);
      const [own] = await run("keptLogits", [x, part, kept], [a * width], [a, h, v, width, first, total]);
      own!.forEach((y, e) => sum[e]! += y);
      const [rows] = await run("keptLogitsDw", [dz, x, kept], [part.length], [
        a,
        h,
        v,
        width,
        0,
        first,
        total,
      ]);
      for (let id = first; id < first + v; id++) {
        for (let k = 0; k < h; k++) {
          const at = (row: number) => (row >> 4) * 16 * h + 16 * k + (row & 15);
          assert.equal(rows![at(id - first)], dw![at(id)], `dw of ${id}`);
        }
      }
    }
    assertSameBits(sum, z!, `${cut}`);
  }
});

Deno.test("linearLogprobDx() is dx of linearLogprobGrad() to the bit", async () => {
  const next = generator(5);
  for (const [a, h, v] of [[1, 1, 1], [13, 33, 1100], [150, 20, 2600], [0, 4, 9]] as const) {
    const x = normal(a * h, next), w = panels(normal(v * h, next), v, h), targets = below(a, v, next);
    for (const entropy of [0, 1]) {
      const lse = normal(a, next).map((y) => y + 9), more = entropy ? [normal(a, next), normal(a, next)] : [];
      const ins = [normal(a, next), x, w, targets, floats(invT), lse, ...more];
      const [both] = await run("linearLogprobGrad", ins, [a * h, w.length], [a, h, v, 0, entropy, 0, v, 0]);
      const [alone] = await run("linearLogprobDx", ins, [a * h], [a, h, v, entropy, 0, v, 0]);
      assertSameBits(alone!, both!, `${a}×${h}×${v} ${entropy}`);
    }
  }
});

Deno.test("wrong ids and targets outside of the list are refused", async () => {
  await assert.rejects(
    run("keptLogits", [floats(1), panels(floats(1), 1, 1), ints(1)], [1], [1, 1, 1, 1, 0, 1]),
    /kept token 0 is 1 and there are 1/,
  );
  await assert.rejects(
    run("keptLogprob", [floats(1, 2, 3), ints(4, 5, -1), ints(6), floats(1)], [1, 1], [1, 3, 0]),
    /target 0 is 6, which is not among the 2 kept tokens/,
  );
});
