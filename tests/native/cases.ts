/** At least one run of every operation, with sizes that leave tails in every loop. */
import { type Attr, logitsStep, type OpKind, POINTWISE } from "../../ir/op.ts";
import {
  below,
  type Data,
  doubles,
  ends,
  floats,
  generator,
  ints,
  normal,
  type Out,
  panels,
} from "./harness.ts";

export interface Case {
  readonly kind: OpKind;
  readonly ins: readonly Data[];
  readonly outs: readonly Out[];
  readonly attrs: readonly Attr[];
  readonly updates?: readonly Out[];
}

export function cases(): readonly Case[] {
  const next = generator(7), all: Case[] = [], n = (size: number, scale = 1) => normal(size, next, scale);
  // Numbers of joined operations, so that those of the others stay what they were.
  const joined = generator(8), m = (size: number) => normal(size, joined);
  const products = generator(9), p = (size: number) => normal(size, products);
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
    add("matmul", [x, w, n(o)], [m * o], [m, o, k, 1, 1]);
    add("matmulDx", [dy, w], [m * k], [m, o, k, 0]);
    add("matmulDx", [dy, w, n(m * k)], [{ inPlace: 2 }], [m, o, k, 1]);
    add("matmulDw", [dy, x], [w.length], [m, o, k, 0]);
    add("matmulDw", [dy, x, w], [{ inPlace: 2 }], [m, o, k, 1]);
    const several = [o + 5, 3, 40].map((outputs) => ({ outputs, w: panels(p(outputs * k), outputs, k) }));
    for (const [kind, count] of [["matmul2", 2], ["matmul3", 3]] as const) {
      const some = several.slice(0, count), ins = [x, ...some.map(({ w }) => w)];
      const outs = some.map(({ outputs }) => m * outputs), sizes = [m, ...some.map(({ outputs }) => outputs)];
      add(kind, ins, outs, [...sizes, k]);
      add(kind, [...ins, ...some.map(({ outputs }) => p(outputs))], outs, [...sizes, k, 1, 1]);
    }
    add("gatedMatmul", [x, w, panels(p(o * k), o, k)], [m * o], [m, o, k]);
    add("addBias", [dy, n(o)], [m * o], [m, o]);
    add("columnSum", [dy], [o], [m, o, 0]);
  }
  {
    const t = 150, v = 40, h = 77, ids = below(t, v, next);
    add("embedding", [ids, n(v * h)], [t * h], [t, v, h, 0, 0, v]);
    add("embedding", [ids, weight(v, h)], [t * h], [t, v, h, 1, 0, v]);
    add("embeddingGrad", [ids, n(t * h)], [v * h], [t, v, h, 0, 0, 0, v]);
    add("embeddingGrad", [ids, n(t * h)], [weight(v, h).length], [t, v, h, 1, 0, 0, v]);
    add("gatherRows", [n(v * h), ids], [t * h], [t, h, v]);
    add("scatterRows", [n(t * h), ids], [v * h], [t, h, v, 0]);
    const x = n(t * h), w = n(h), rstd = n(t).map(Math.abs);
    add("rmsnorm", [x, w], [t * h, t], [t, h, 1e-6]);
    add("rmsnormDx", [n(t * h), x, w, rstd], [t * h], [t, h, 0]);
    add("rmsnormDw", [n(t * h), x, rstd], [h], [t, h, 0]);
    add("rmsnormGrad", [m(t * h), x, w, rstd], [t * h, h], [t, h, 0, 0]);
    add("rmsnormGrad", [m(t * h), x, w, rstd, m(t * h), m(h)], [{ inPlace: 4 }, { inPlace: 5 }], [
      t,
      h,
      1,
      1,
    ]);
    add("addRmsnorm", [x, m(t * h), w], [t * h, t * h, t], [t, h, 1e-6]);
    const d = 14, table = n(50 * d);
    add("rope", [n(t * 3 * d), below(t, 50, next), table], [t * 3 * d], [t, 3, d, 1]);
    const heads = [m(t * 4 * d), m(t * 2 * d), below(t, 50, joined), table];
    add("ropes", heads, [t * 4 * d, t * 2 * d], [t, 4, 2, d, -1, 0, 0]);
    add("ropes", [...heads, m(d), m(d)], [t * 4 * d, t * 2 * d, t * 4, t * 2], [t, 4, 2, d, 1, 1e-6, 1]);
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
    const places = [ints(5, 77), m(320 * d), ints(0, 1), table, ints(0, 0)];
    const rows2 = [m(2 * heads * d), m(2 * kv * d), m(2 * kv * d), ...places];
    add("ropeKvWrite", rows2, [2 * heads * d, cache], [2, heads, kv, d, 1, pages, maxPages, 0, 0, 0]);
    add("ropeKvWrite", [...rows2, m(d), m(d)], [2 * heads * d, 2 * kv * d, cache], [
      ...[2, heads, kv, d, 1, pages, maxPages, 1e-6],
      ...[1, 1],
    ]);
    add("copyPages", [cache, ints(3), ints(4)], [{ inPlace: 0 }], [1, kv, d, 2, pages]);
  }
  for (const [a, h, v] of [[3, 20, 50], [140, 33, 1100]] as const) {
    const x = n(a * h),
      w = weight(v, h),
      targets = below(a, v, next),
      invT = floats(1.25),
      lse = n(a).map((y) => y + 9);
    // The logits are made again, then kept.
    for (const step of [0, logitsStep(v)]) {
      const gradient = () => [n(a), x, w, targets, invT, lse, n(a), n(a), ...step ? [n(a * step)] : []];
      const logits = step ? [a * step] : [], sizes = [a, h, v];
      add("linearLogprob", [x, w, targets, invT], [a, a, a, ...logits], [...sizes, 1, step]);
      add("linearLogprobGrad", gradient(), [a * h, w.length], [...sizes, 0, 1, 0, v, step]);
      add("linearLogprobDx", gradient(), [a * h], [...sizes, 1, 0, v, step]);
      add("shardLogprob", [x, w, targets, invT], [a, a, a, ...logits, 3 * a], [...sizes, 1, 0, v, 0, step]);
    }
    const width = 19,
      kept = Int32Array.from({ length: a * width }, (_, e) => {
        const [i, j] = [Math.floor(e / width), e % width];
        return j > i % width ? -1 : (targets[i]! + 7 * j) % v;
      });
    const z = n(a * width);
    add("keptLogits", [x, w, kept], [a * width], [a, h, v, width, 0, v]);
    add("keptLogitsDx", [z, w, kept], [a * h], [a, h, v, width, 0, v]);
    add("keptLogitsDw", [z.map((g, e) => kept[e]! < 0 ? 0 : g), x, kept], [w.length], [
      a,
      h,
      v,
      width,
      0,
      0,
      v,
    ]);
    add("keptLogprob", [z, kept, targets, invT], [a, a, a], [a, width, 1]);
    add("keptLogprobGrad", [n(a), z, kept, targets, invT, lse, n(a), n(a)], [a * width], [a, width, 1]);
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
      if (topK) {
        add(
          "sampleKept",
          [...ins.slice(0, 2), state(), state(), state(), state(), sampler, ints(1), new Int32Array(4 * a)]
            .concat([new Float32Array(4 * a), new Int32Array(4 * a * topK)]),
          [],
          [a, v, temperature, topK, topP, 1, 4],
          [2, 3, 4, 5, 8, 9, 10].map((inPlace) => ({ inPlace })),
        );
      }
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
    add("squareSums", [n(70001), x], [6], [3, 70001, 2, size, 0]);
    add("norm", [doubles(4, 9, 36)], [1], [3]);
    add("allReduce", [x], [size], [size, 0]);
    add("allReduce", [x], [{ inPlace: 0 }], [size, 1]);
    add("sumDoubles", [doubles(1, 2, 3)], [6], [3, 4]);
    add("allGatherRows", [x.slice(0, 700)], [700], [7, 100, 2]);
    add("reduceScatterRows", [x.slice(0, 700)], [700], [7, 100, 3]);
    add("reduceOwnRows", [x.slice(0, 700)], [700], [7, 100, 3, 20, 3]);
    add("ownRows", [x.slice(0, 700)], [700], [7, 100, 0]);
    add("allGatherColumns", [x.slice(0, 700)], [700], [7, 100, 0, 100, 0]);
    add("adamw", [x, y, z, z.map((v) => v * v), floats(.01, .1, .05), floats(2)], [{ inPlace: 0 }, {
      inPlace: 2,
    }, { inPlace: 3 }], [size, .9, .95, 1e-8, .1, 1, 0]);
    add("copy", [x], [size], [size]);
    add("fill", [], [size], [size, 3]);
  }
  return all;
}
