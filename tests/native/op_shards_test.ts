/** Embedding and head whose vocabulary is split over ranks, against the whole. */
import assert from "node:assert/strict";
import { AXES } from "../../ir/op.ts";
import {
  assertClose,
  assertSameBits,
  below,
  everywhere,
  floats,
  generator,
  ints,
  normal,
  panels,
  run,
  runRanks,
} from "./harness.ts";

type Floats = Float32Array<ArrayBuffer>;
const axis = AXES.indexOf("tp");

/** Cuts of a vocabulary: whole panels, and single rows. */
const CUTS = [[0, 40], [0, 16, 40], [0, 16, 32, 40], [0, 1, 2, 3, 40]] as const;

Deno.test("embedding() and embeddingGrad() of the shards add up to those of the whole", async () => {
  const next = generator(1), total = 40, h = 24, t = 90, ids = below(t, total, next);
  const w = normal(total * h, next), dx = normal(t * h, next), prior = normal(total * h, next);
  const layout = (a: Floats, v: number, inPanels: number) => inPanels ? panels(a, v, h) : a;
  for (const inPanels of [0, 1]) {
    const attrs = [t, total, h, inPanels];
    const [x] = await run("embedding", [ids, layout(w, total, inPanels)], [t * h], [...attrs, 0, total]);
    const sum = prior.slice();
    for (let i = 0; i < t * h; i++) {
      const at = ids[Math.floor(i / h)]! * h + i % h;
      sum[at] = sum[at]! + dx[i]!;
    }
    for (const cut of CUTS) {
      const parts: Floats[] = [];
      for (let r = 0; r + 1 < cut.length; r++) {
        const [first, v] = [cut[r]!, cut[r + 1]! - cut[r]!],
          rows = (a: Floats) => a.slice(first * h, (first + v) * h);
        const part = (a: Floats) => layout(rows(a), v, inPanels);
        parts.push((await run("embedding", [ids, part(w)], [t * h], [t, v, h, inPanels, first, total]))[0]!);
        const [dw] = await run("embeddingGrad", [ids, dx, part(prior)], [{ inPlace: 2 }], [
          t,
          v,
          h,
          inPanels,
          1,
          first,
          total,
        ]);
        assertSameBits(dw!, part(sum), `gradient of rows ${first} to ${first + v}`);
      }
      // Every row is one shard's and zero on the others.
      assertSameBits(x!.map((_, i) => parts.reduce((a, p) => a + p[i]!, 0)), x!, `${cut}`);
    }
  }
  await assert.rejects(
    run("embedding", [ints(3), floats(1)], [1], [1, 1, 1, 0, 1, 3]),
    /token id 0 is 3 and there are 3/,
  );
});

const HEADS = [[1, 8, 40], [13, 20, 40], [150, 24, 2600], [0, 4, 40]] as const;

Deno.test("shardLogprob() gives every rank the log-probabilities of the whole", async () => {
  const next = generator(2);
  await everywhere(async (threads) => {
    for (const [a, h, total] of HEADS) {
      const x = normal(a * h, next), w = normal(total * h, next, .5), targets = below(a, total, next);
      const whole = await run(
        "linearLogprob",
        [x, panels(w, total, h), targets, floats(.8)],
        [a, a, a],
        [a, h, total, 1, 0],
      );
      for (const cut of CUTS.map((c) => [...c.slice(0, -1), total])) {
        for (const entropy of [0, 1]) {
          const ranks = cut.slice(1).map((to, r) => {
            const first = cut[r]!, shard = panels(w.slice(first * h, to * h), to - first, h);
            const outs = [a, a, ...(entropy ? [a] : []), 3 * a];
            return {
              ins: [x, shard, targets, floats(.8)],
              outs,
              attrs: [a, h, to - first, entropy, first, total, axis, 0],
            };
          });
          const found = await runRanks("shardLogprob", ranks, threads);
          for (const outs of found) {
            outs.slice(0, 2 + entropy).forEach((y, i) => {
              assertSameBits(y, found[0]![i]!, "all ranks alike");
              const name = `${["logprob", "lse", "entropy"][i]} of ${a}×${h}×${total} over ${ranks.length}`;
              if (ranks.length === 1 && i < 2) assertSameBits(y, whole[i]!, name);
              else assertClose(y, whole[i]!, i === 2 ? 3e-5 : 2e-6, name);
            });
          }
        }
      }
    }
  });
});

Deno.test("linearLogprobGrad() of the shards adds up to that of the whole", async () => {
  const next = generator(3), [a, h, total] = [37, 20, 2600];
  const x = normal(a * h, next),
    w = normal(total * h, next, .5),
    targets = below(a, total, next),
    invT = floats(.8);
  const whole = panels(w, total, h);
  const [, lse, entropy] = await run("linearLogprob", [x, whole, targets, invT], [a, a, a], [
    a,
    h,
    total,
    1,
    0,
  ]);
  const dl = normal(a, next), de = normal(a, next);
  const grad = (shard: Floats, first: number, v: number) =>
    run(
      "linearLogprobGrad",
      [dl, x, shard, targets, invT, lse!, de, entropy!],
      [a * h, shard.length],
      [a, h, v, 0, 1, first, total, 0],
    );
  const [dx, dw] = await grad(whole, 0, total);
  const cut = [0, 1024, 1040, total], sum = new Float64Array(a * h);
  for (let r = 0; r + 1 < cut.length; r++) {
    const [first, to] = [cut[r]!, cut[r + 1]!];
    const [part, gradient] = await grad(panels(w.slice(first * h, to * h), to - first, h), first, to - first);
    part!.forEach((g, i) => sum[i]! += g);
    // A gradient of a row of the weight is the same chain over rows of x wherever it is computed.
    assertSameBits(gradient!, dw!.slice(first * h, first * h + gradient!.length), `rows ${first} to ${to}`);
  }
  assertClose(sum, dx!, 2e-6, "dx");
});
