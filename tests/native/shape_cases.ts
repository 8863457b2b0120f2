/** Attention and products at the sizes of real models: head sizes, grouped heads, tails, sequences of no token. */
import { logitsStep, POINTWISE } from "../../ir/op.ts";
import type { Case } from "./cases.ts";
import { below, doubles, ends, floats, generator, normal, panels } from "./harness.ts";
import { sampleCases } from "./sample_cases.ts";

/** Head size, heads, key-value heads, window and lengths of sequences; the last ones span several blocks of the kernels. */
const ATTENTION: readonly (readonly [number, number, number, number, readonly number[]])[] = [
  [64, 4, 4, 0, [5, 0, 97, 64, 1]],
  [80, 4, 2, 0, [5, 0, 97, 64, 1]],
  [96, 6, 2, 40, [5, 0, 97, 64, 1]],
  [128, 8, 1, 0, [5, 0, 97, 64, 1]],
  [256, 2, 1, 0, [5, 0, 97, 64, 1]],
  [128, 2, 1, 0, [200, 0, 150]],
  [80, 1, 1, 70, [300, 3]],
  [256, 2, 2, 70, [130, 3]],
];

const PAGED = [[128, 8, 2, 0], [80, 3, 1, 0], [64, 12, 2, 300], [256, 2, 2, 0]] as const;

/** Rows of one and of several spans of keys, one sequence twice, beside a page that they share. */
function pagedCases(n: (size: number) => Float32Array<ArrayBuffer>): Case[] {
  const maxPages = 50, pages = 3 * maxPages, positions = [0, 255, 256, 790, 511, 790];
  const slots = Int32Array.of(0, 1, 2, 0, 1, 0);
  const table = Int32Array.from({ length: pages }, (_, i) => i % maxPages === 0 ? 7 : (i * 37) % pages);
  return PAGED.map(([d, heads, kv, window]): Case => ({
    kind: "pagedAttention",
    ins: [n(slots.length * heads * d), n(2 * pages * kv * d * 16), slots, Int32Array.from(positions), table],
    outs: [slots.length * heads * d],
    attrs: [slots.length, heads, kv, d, window, d ** -.5, 0, pages, maxPages],
  }));
}

/** A vocabulary of several pieces, and more rows than one piece has (on GPUs, of which the emulation has small ones). */
function headCases(n: (size: number) => Float32Array<ArrayBuffer>, next: () => number): Case[] {
  return ([[20, 16, 2100], [300, 8, 72]] as const).flatMap(([a, h, v]): Case[] => {
    const x = n(a * h), w = panels(n(v * h), v, h), targets = below(a, v, next), invT = floats(.9);
    const lse = n(a).map((y) => y + 9), gradient = [n(a), x, w, targets, invT, lse, n(a), n(a)];
    const step = logitsStep(v), logits = n(a * step), ins = [x, w, targets, invT];
    return [
      { kind: "linearLogprob", ins, outs: [a, a, a], attrs: [a, h, v, 1, 0] },
      { kind: "linearLogprob", ins, outs: [a, a, a, a * step], attrs: [a, h, v, 1, step] },
      { kind: "linearLogprobDx", ins: gradient, outs: [a * h], attrs: [a, h, v, 1, 0, v, 0] },
      { kind: "linearLogprobDx", ins: [...gradient, logits], outs: [a * h], attrs: [a, h, v, 1, 0, v, step] },
      // A gradient in bf16 is rounded once for each piece of the rows on GPUs, and once in all on the CPU.
      ...a < 256
        ? [
          {
            kind: "linearLogprobGrad",
            ins: [...gradient, w],
            outs: [a * h, { inPlace: 8 }],
            attrs: [a, h, v, 1, 1, 0, v, 0],
          } as const,
        ]
        : [],
    ];
  });
}

/** Chains of one instruction: whole vectors and a tail, one number for all, and in place. */
function singleCases(n: (size: number) => Float32Array<ArrayBuffer>): Case[] {
  const { add, mul, where, exp } = POINTWISE,
    single = [[add, [1, 1]], [mul, [1, 0]], [exp, [1]], [where, [1, 0, 1]]] as const;
  return single.flatMap(([code, strides]) =>
    [2048, 5001].map((size): Case => ({
      kind: "pointwise",
      ins: strides.map((stride) => n(stride ? size : 1)),
      outs: [code === add ? { inPlace: 0 } : size],
      attrs: [
        size,
        strides.length,
        1,
        1,
        ...strides,
        code,
        0,
        strides.length > 1 ? 1 : 0,
        strides.length - 1,
        strides.length,
      ],
    }))
  );
}

/** Norms over rows and heads of models, and rotations of their heads: what GPUs read sixteen bytes at a time. */
function rowCases(n: (size: number) => Float32Array<ArrayBuffer>): Case[] {
  const norms = [[21, 128], [9, 256], [7, 1024], [5, 2048], [3, 4096], [2, 8192], [40, 1000]] as const;
  const angles = 40, heads = [[64, 4, 2], [80, 3, 1], [96, 4, 4], [128, 8, 2], [256, 2, 1]] as const;
  return [
    ...norms.flatMap(([r, h]): Case[] => {
      const x = n(r * h), w = n(h), dy = n(r * h), rstd = n(r).map(Math.abs);
      return [
        { kind: "rmsnorm", ins: [x, w], outs: [r * h, r], attrs: [r, h, 1e-6] },
        { kind: "addRmsnorm", ins: [x, dy, w], outs: [{ inPlace: 0 }, r * h, r], attrs: [r, h, 1e-6] },
        { kind: "rmsnormDx", ins: [dy, x, w, rstd], outs: [r * h], attrs: [r, h, 0] },
        { kind: "rmsnormDw", ins: [dy, x, rstd], outs: [h], attrs: [r, h, 0] },
        {
          kind: "rmsnormGrad",
          ins: [dy, x, w, rstd, n(r * h), n(h)],
          outs: [{ inPlace: 4 }, { inPlace: 5 }],
          attrs: [r, h, 1, 1],
        },
        { kind: "columnSum", ins: [x, w], outs: [{ inPlace: 1 }], attrs: [r, h, 1] },
      ];
    }),
    { kind: "rmsnormDw", ins: [n(1100 * 64), n(1100 * 64), n(1100)], outs: [64], attrs: [1100, 64, 0] },
    ...heads.flatMap(([d, of, kv]): Case[] => {
      const t = 5,
        x = [n(t * of * d), n(t * kv * d)],
        table = n(angles * d),
        at = Int32Array.of(3, 39, 0, 17, 18);
      const cache = n(6 * 2 * kv * d * 16),
        places = [Int32Array.of(0, 1, 0, 1, 0), Int32Array.of(5, 1, 2, 0, 4, 3)];
      const into = [...x, n(t * kv * d), at, table, ...places, Int32Array.of(0, 0)], where = [0, 6, 3, 1e-6];
      return [
        { kind: "rope", ins: [x[0]!, at, table], outs: [{ inPlace: 0 }], attrs: [t, of, d, 1] },
        {
          kind: "ropes",
          ins: [...x, at, table],
          outs: [t * of * d, { inPlace: 1 }],
          attrs: [t, of, kv, d, -1, 0, 0],
        },
        {
          kind: "ropes",
          ins: [...x, at, table, n(d), n(d)],
          outs: [t * of * d, t * kv * d, t * of, t * kv],
          attrs: [t, of, kv, d, 1, 1e-6, 1],
        },
        {
          kind: "ropeKvWrite",
          ins: into,
          outs: [{ inPlace: 0 }, cache],
          attrs: [t, of, kv, d, ...where, 0, 0],
        },
        {
          kind: "ropeKvWrite",
          ins: [...into, n(d), n(d)],
          outs: [t * of * d, { inPlace: 1 }, cache],
          attrs: [t, of, kv, d, ...where, 1, 1],
        },
      ];
    }),
  ];
}

/** What is moved in packs and has no sums: whole packs, a tail, and weights in rows and in panels. */
function packCases(n: (size: number) => Float32Array<ArrayBuffer>): Case[] {
  const chain = [POINTWISE.mul, 0, 1, 0, POINTWISE.add, 3, 2, 0], [t, v, h] = [9, 20, 64];
  const ids = Int32Array.from({ length: t }, (_, i) => (7 * i) % v), hyper = Float32Array.of(.01, .1, .05);
  return [
    ...[2048, 2049].flatMap((size): Case[] => {
      const [x, y, z] = [n(size), n(size), n(size)], adamw = [size, .9, .95, 1e-8, .1, 1];
      const state = [x, y, z, z.map((m) => m * m), hyper, Float32Array.of(2)];
      return [
        { kind: "swiglu", ins: [x, y], outs: [{ inPlace: 1 }], attrs: [size] },
        { kind: "swigluGrad", ins: [z, x, y], outs: [{ inPlace: 1 }, { inPlace: 2 }], attrs: [size] },
        {
          kind: "pointwise",
          ins: [x, n(1), y],
          outs: [size, size],
          attrs: [size, 3, 2, 2, 1, 0, 1, ...chain, 4, 3],
        },
        {
          kind: "adamw",
          ins: state,
          outs: [...[0, 2, 3].map((inPlace) => ({ inPlace })), new Uint16Array(size)],
          attrs: [...adamw, 1],
        },
        { kind: "adamw", ins: state, outs: [size, size, size], attrs: [...adamw, 0] },
      ];
    }),
    { kind: "embedding", ins: [ids, n(v * h)], outs: [t * h], attrs: [t, v, h, 0, 0, v] },
    { kind: "embedding", ins: [ids, panels(n(v * h), v, h)], outs: [t * h], attrs: [t, v, h, 1, 3, v + 3] },
    { kind: "gatherRows", ins: [n(v * h), ids], outs: [t * h], attrs: [t, h, v] },
    { kind: "norm", ins: [doubles(...n(300).map(Math.abs))], outs: [1], attrs: [300] },
  ];
}

/** Products of the same rows: few and more of them, widths with tails, and depths with tails that GPUs read eight numbers at a time of. */
function joinedProductCases(n: (size: number) => Float32Array<ArrayBuffer>): Case[] {
  const few = [[1, 72, 24, 8, 264], [3, 33, 1, 50, 1032], [8, 100, 17, 40, 72]] as const;
  const more = [[16, 40, 16, 9, 520], [2, 24, 9, 16, 2120], [40, 48, 24, 31, 136]] as const;
  return [...few, ...more].flatMap(([m, a, b, c, k]): Case[] => {
    const x = n(m * k), widths = [a, b, c], weights = widths.map((o) => panels(n(o * k), o, k));
    return ([["matmul2", 2], ["matmul3", 3]] as const).flatMap(([kind, count]): Case[] => {
      const some = widths.slice(0, count),
        ins = [x, ...weights.slice(0, count)],
        outs = some.map((o) => m * o);
      return [
        { kind, ins, outs, attrs: [m, ...some, k] },
        { kind, ins: [...ins, ...some.map((o) => n(o))], outs, attrs: [m, ...some, k, 1, 1] },
      ];
    }).concat([
      {
        kind: "gatedMatmul",
        ins: [x, weights[0]!, panels(n(a * k), a, k)],
        outs: [m * a],
        attrs: [m, a, k],
      },
    ]);
  });
}

/** Beside those of `cases()`: larger, and only worth the time where kernels of several head sizes are at stake. */
export function shapeCases(): readonly Case[] {
  const next = generator(11), n = (size: number, scale = 1) => normal(size, next, scale);
  const attention = ATTENTION.flatMap(([d, heads, kv, window, lengths]): Case[] => {
    const at = ends(lengths), t = at.at(-1)!;
    const q = n(t * heads * d), k = n(t * kv * d), v = n(t * kv * d);
    const attrs = [t, lengths.length, heads, kv, d, window, d ** -.5];
    const lse = n(t * heads).map((x) => x + 4);
    return [
      { kind: "attention", ins: [q, k, v, at], outs: [q.length, t * heads], attrs },
      {
        kind: "attentionGrad",
        ins: [n(q.length), q, k, v, n(q.length), lse, at],
        outs: [q.length, k.length, v.length],
        attrs,
      },
    ];
  });
  const products = ([[1, 200, 128], [129, 129, 33], [65, 16, 64], [136, 200, 72], [9, 72, 264], [
    16,
    40,
    72,
  ], [24, 40, 64]] as const).flatMap(
    ([m, o, k]): Case[] => {
      const w = panels(n(o * k), o, k), x = n(m * k), dy = n(m * o);
      return [
        { kind: "matmul", ins: [x, w], outs: [m * o], attrs: [m, o, k] },
        { kind: "matmul", ins: [x, w, n(o)], outs: [m * o], attrs: [m, o, k, 1, 1] },
        { kind: "matmulDx", ins: [dy, w], outs: [m * k], attrs: [m, o, k, 0] },
        { kind: "matmulDx", ins: [dy, w, n(m * k)], outs: [m * k], attrs: [m, o, k, 1] },
        { kind: "matmulDw", ins: [dy, x], outs: [w.length], attrs: [m, o, k, 0] },
        { kind: "matmulDw", ins: [dy, x, w], outs: [{ inPlace: 2 }], attrs: [m, o, k, 1] },
      ];
    },
  );
  return [
    ...attention,
    ...products,
    ...headCases(n, next),
    ...pagedCases(n),
    ...singleCases(n),
    ...rowCases(n),
    ...packCases(n),
    ...sampleCases(),
    ...joinedProductCases(n),
  ];
}
