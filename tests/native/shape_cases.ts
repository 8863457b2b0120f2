/** Attention and products at the sizes of real models: head sizes, grouped heads, tails, sequences of no token. */
import { POINTWISE } from "../../ir/op.ts";
import type { Case } from "./cases.ts";
import { below, ends, floats, generator, normal, panels } from "./harness.ts";

/** Head size, heads, key-value heads, window and lengths of sequences; the last ones span several blocks of the kernels. */
const ATTENTION: readonly (readonly [number, number, number, number, readonly number[]])[] = [
  [64, 4, 4, 0, [5, 0, 97, 64, 1]],
  [80, 4, 2, 0, [5, 0, 97, 64, 1]],
  [96, 6, 2, 40, [5, 0, 97, 64, 1]],
  [128, 8, 1, 0, [5, 0, 97, 64, 1]],
  [256, 2, 1, 0, [5, 0, 97, 64, 1]],
  [128, 2, 1, 0, [200, 0, 150]],
  [80, 1, 1, 70, [300, 3]],
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
    return [
      { kind: "linearLogprob", ins: [x, w, targets, invT], outs: [a, a, a], attrs: [a, h, v, 1] },
      { kind: "linearLogprobDx", ins: gradient, outs: [a * h], attrs: [a, h, v, 1, 0, v] },
      // A gradient in bf16 is rounded once for each piece of the rows on GPUs, and once in all on the CPU.
      ...a < 256
        ? [
          {
            kind: "linearLogprobGrad",
            ins: [...gradient, w],
            outs: [a * h, { inPlace: 8 }],
            attrs: [a, h, v, 1, 1, 0, v],
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
  return [...attention, ...products, ...headCases(n, next), ...pagedCases(n), ...singleCases(n)];
}
