import assert from "node:assert/strict";
import {
  assertSameBits,
  below,
  bytes,
  ends,
  floats,
  generator,
  integers,
  ints,
  normal,
  panels,
  run,
} from "./harness.ts";

type Floats = Float32Array<ArrayBuffer>;
const filled = (n: number, at: (i: number) => number): Floats =>
  Float32Array.from({ length: n }, (_, i) => at(i));

Deno.test("embedding() and embeddingGrad() index rows, plain or in panels, tokens in order", async () => {
  const next = generator(1);
  for (const [t, v, h] of [[1, 1, 1], [9, 20, 24], [300, 37, 130], [0, 5, 4]] as const) {
    const ids = below(t, v, next),
      w = normal(v * h, next),
      dx = normal(t * h, next),
      prior = normal(v * h, next);
    for (const inPanels of [0, 1]) {
      const layout = (m: Floats) => inPanels ? panels(m, v, h) : m;
      const [x] = await run("embedding", [ids, layout(w)], [t * h], [t, v, h, inPanels, 0, v]);
      assertSameBits(
        x!,
        filled(t * h, (i) => w[ids[Math.floor(i / h)]! * h + i % h]!),
        `embedding ${t}×${v}×${h}`,
      );
      for (const start of [null, prior]) {
        const sum = start ? start.slice() : new Float32Array(v * h);
        for (let i = 0; i < t * h; i++) {
          const at = ids[Math.floor(i / h)]! * h + i % h;
          sum[at] = sum[at]! + dx[i]!;
        }
        const expected = layout(sum);
        const [dw] = start
          ? await run("embeddingGrad", [ids, dx, layout(start)], [{ inPlace: 2 }], [
            t,
            v,
            h,
            inPanels,
            1,
            0,
            v,
          ])
          : await run("embeddingGrad", [ids, dx], [expected.length], [t, v, h, inPanels, 0, 0, v]);
        assertSameBits(dw!, expected, `embeddingGrad ${t}×${v}×${h}`);
      }
    }
  }
  await assert.rejects(
    run("embedding", [ints(0, 5), floats(1, 2, 3)], [2], [2, 3, 1, 0, 0, 3]),
    /token id 1 is 5 and there are 3/,
  );
  await assert.rejects(
    run("embedding", [ints(-1), floats(1, 2, 3)], [1], [1, 3, 1, 0, 0, 3]),
    /token id 0 is -1/,
  );
});

Deno.test("gatherRows() and scatterRows() move rows of any type, adding in order", async () => {
  const next = generator(2);
  for (const [a, h, t] of [[1, 1, 1], [7, 33, 10], [500, 20, 64], [0, 3, 2]] as const) {
    const x = normal(t * h, next), rows = below(a, t, next), dy = normal(a * h, next);
    const [y] = await run("gatherRows", [x, rows], [a * h], [a, h, t]);
    assertSameBits(y!, filled(a * h, (i) => x[rows[Math.floor(i / h)]! * h + i % h]!), `gather ${a}×${h}`);
    for (const start of [null, x]) {
      const sum = start ? start.slice() : new Float32Array(t * h);
      for (let i = 0; i < a * h; i++) {
        const at = rows[Math.floor(i / h)]! * h + i % h;
        sum[at] = sum[at]! + dy[i]!;
      }
      const [dx] = start
        ? await run("scatterRows", [dy, rows, start], [{ inPlace: 2 }], [a, h, t, 1])
        : await run("scatterRows", [dy, rows], [t * h], [a, h, t, 0]);
      assertSameBits(dx!, sum, `scatter ${a}×${h}`);
    }
  }
  const [moved] = await run("gatherRows", [ints(7, 8, -9), ints(2, 0)], [2], [2, 1, 3]);
  assert.deepEqual([...integers(moved!)], [-9, 7]);
  await assert.rejects(run("gatherRows", [floats(1), ints(1)], [1], [1, 1, 1]), /row 0 is 1 and there are 1/);
});

Deno.test("strideGather() and strideScatter() pick and place every n-th element", async () => {
  const x = normal(12, generator(3));
  const [y] = await run("strideGather", [x], [6], [6, 2, 1]);
  assertSameBits(y!, filled(6, (i) => x[2 * i + 1]!), "gather");
  const [back] = await run("strideScatter", [y!], [12], [6, 2, 1]);
  assertSameBits(back!, filled(12, (i) => i % 2 ? x[i]! : 0), "scatter");
});

Deno.test("copy() and fill() cover exactly their elements", async () => {
  for (const n of [1, 17, 70000]) {
    const x = normal(n, generator(n));
    const [y] = await run("copy", [x], [n], [n]);
    assertSameBits(y!, x, `copy ${n}`);
    const [z] = await run("fill", [], [n], [n, 1.5]);
    assert.ok(z!.every((v) => v === 1.5));
  }
  const [z] = await run("copy", [Int32Array.of(-1, 0x7fc00001)], [2], [2]);
  assert.deepEqual(bytes(z!), bytes(Int32Array.of(-1, 0x7fc00001)));
});

Deno.test("segment operations sum, spread and look at ends, empty segments included", async () => {
  for (const lengths of [[1], [3, 0, 5, 1, 0], Array.from({ length: 200 }, (_, i) => i % 7), []]) {
    const n = lengths.reduce((a, b) => a + b, 0), m = lengths.length, at = ends(lengths), next = generator(m);
    const x = normal(n, next), y = normal(m, next);
    const first = (i: number) => i ? at[i - 1]! : 0;
    const owner = Int32Array.from({ length: n }, (_, j) => at.findIndex((end) => j < end));
    const [sum] = await run("segmentSum", [x, at], [m], [n, m]);
    assertSameBits(
      sum!,
      filled(m, (i) => {
        let s = 0;
        for (let j = first(i); j < at[i]!; j++) s = Math.fround(s + x[j]!);
        return s;
      }),
      "sum",
    );
    const [spread] = await run("segmentSpread", [y, at], [n], [n, m]);
    assertSameBits(spread!, filled(n, (j) => y[owner[j]!]!), "spread");
    const [last] = await run("segmentLast", [x, at], [m], [n, m]);
    assertSameBits(last!, filled(m, (i) => lengths[i] ? x[at[i]! - 1]! : 0), "last");
    const [atEnd] = await run("segmentAtEnd", [y, at], [n], [n, m]);
    assertSameBits(atEnd!, filled(n, (j) => j + 1 === at[owner[j]!] ? y[owner[j]!]! : 0), "atEnd");
    const [length] = await run("segmentLength", [at], [m], [m]);
    assert.deepEqual([...length!], lengths);
    let s = 0;
    for (const v of x) s = Math.fround(s + v);
    const [total] = await run("total", [x], [1], [n, 0]);
    assertSameBits(total!, floats(s), "total");
    s = 2.5;
    for (const v of x) s = Math.fround(s + v);
    const [more] = await run("total", [x, floats(2.5)], [{ inPlace: 1 }], [n, 1]);
    assertSameBits(more!, floats(s), "total with a prior");
  }
  await assert.rejects(
    run("segmentSum", [floats(1, 2), ints(2, 1)], [2], [2, 2]),
    /segment 1 ends at 1, after 2/,
  );
  await assert.rejects(
    run("segmentSum", [floats(1, 2), ints(1)], [1], [2, 1]),
    /the last segment ends at 1, not at 2/,
  );
  await assert.rejects(run("segmentSum", [floats(1, 2), ints(3)], [1], [2, 1]), /segment 0 ends at 3/);
});

Deno.test("gae() walks each sequence backwards from the value after its last action", async () => {
  const lengths = [1, 4, 0, 9], n = 14, at = ends(lengths), next = generator(4), gamma = .97, lambda = .9;
  const rewards = normal(n, next), values = normal(n, next), finals = normal(4, next);
  const [advantages] = await run("gae", [rewards, values, finals, at], [n], [n, 4, gamma, lambda]);
  const expected = new Float32Array(n);
  lengths.forEach((length, i) => {
    const end = at[i]!;
    // The definition: a sum of discounted one-step errors.
    for (let t = end - length; t < end; t++) {
      for (let l = t; l < end; l++) {
        const after = l + 1 < end ? values[l + 1]! : finals[i]!;
        expected[t]! += (gamma * lambda) ** (l - t) * (rewards[l]! + gamma * after - values[l]!);
      }
    }
  });
  for (let i = 0; i < n; i++) assert.ok(Math.abs(advantages![i]! - expected[i]!) < 1e-5, `advantage ${i}`);
});
