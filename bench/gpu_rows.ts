/** Part of `deno task bench:gpu`: what is bound by memory, at the sizes of a model. */
import type { Work } from "./gpu_floor.ts";
import type { OperationCase } from "./gpu_ops.ts";

interface RowCase extends Work, OperationCase {
  readonly name: string;
}

const range = (n: number, f: (i: number) => number) => Int32Array.from({ length: n }, (_, i) => f(i));

/** What is bound by memory, in bf16: operations of a training step of `t` tokens and of a decode step of `rows` rows. */
export function rowCases(
  t: number,
  rows: number,
  h: number,
  heads: number,
  kv: number,
  d: number,
  inner: number,
): RowCase[] {
  const q = t * heads * d, k = t * kv * d, n = h * inner, pages = 64 * rows, positions = 4096;
  const half = (name: string, of: number, c: Omit<RowCase, "name" | "dtype" | keyof Work>): RowCase => ({
    name: `${name}, bf16`,
    dtype: "bf16",
    flops: 0,
    bytes: of,
    ...c,
  });
  const sum = (r: number) => ({
    kind: "addRmsnorm" as const,
    ins: [r * h, r * h, h],
    outs: [r * h, r * h, r],
    attrs: [r, h, 1e-6],
    f32: [5],
  });
  const gradients = (r: number, w: number) => ({
    kind: "rmsnormGrad" as const,
    ins: [r * w, r * w, w, r],
    outs: [r * w, w],
    attrs: [r, w, 0, 0],
    f32: [3],
  });
  return [
    half("sum and norm", 8 * t * h, sum(t)),
    half("sum and norm of one row", 8 * h, sum(1)),
    half("gradients of a norm", 6 * t * h, gradients(t, h)),
    half("gradients of the norms of heads", 6 * q, gradients(t * heads, d)),
    half("norms and rotations of heads", 4 * (q + k), {
      kind: "ropes",
      ins: [q, k, range(t, (i) => i % positions), positions * d, d, d],
      outs: [q, k, t * heads, t * kv],
      attrs: [t, heads, kv, d, 1, 1e-6, 1],
      f32: [3, 8, 9],
    }),
    half(`the same into the cache, ${rows} rows`, 4 * rows * (heads + 2 * kv) * d, {
      kind: "ropeKvWrite",
      ins: [
        ...[rows * heads * d, rows * kv * d, rows * kv * d, range(rows, () => 1000), positions * d],
        ...[range(rows, (i) => i), range(pages, (i) => i), new Int32Array(rows), d, d],
      ],
      outs: [rows * heads * d, pages * kv * d * 32],
      attrs: [rows, heads, kv, d, 0, pages, 64, 1e-6, 1, 0],
      f32: [4],
    }),
    half("swiglu", 6 * t * inner, {
      kind: "swiglu",
      ins: [t * inner, t * inner],
      outs: [t * inner],
      attrs: [t * inner],
    }),
    half("adamw", 28 * n, {
      kind: "adamw",
      ins: [n, n, n, n, 3, 1],
      outs: [n, n, n, n],
      attrs: [n, .9, .95, 1e-8, .1, 1, 1],
      f32: [0, 2, 3, 4, 5, 6, 7, 8],
    }),
  ];
}
