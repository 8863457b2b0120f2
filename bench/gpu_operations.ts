/** Part of `deno task bench:gpu`: operations of a training and of a decode step at the sizes of an 8B model in bf16, beside their floors. */
import { describe, Device } from "../ffi/device.ts";
import { openGpus } from "../ffi/gpus.ts";
import type { OpKind } from "../ir/op.ts";
import { floorSeconds, type Work } from "./gpu_floor.ts";
import { type Input, operationSeconds } from "./gpu_ops.ts";
import { rowCases } from "./gpu_rows.ts";

interface Case extends Work {
  readonly name: string;
  readonly kind: OpKind;
  readonly ins: readonly Input[];
  readonly outs: readonly number[];
  readonly attrs: readonly number[];
  /** Operands that are not bf16. */
  readonly f32?: readonly number[];
}

const range = (n: number, f: (i: number) => number) => Int32Array.from({ length: n }, (_, i) => f(i));

/** Sizes of an 8B model: hidden 4096, 32 heads of 128 on 8 key-value heads, inner 14336. `t` tokens. */
function cases(
  t: number,
  h: number,
  heads: number,
  kv: number,
  d: number,
  inner: number,
  vocabulary: number,
): Case[] {
  const q = t * heads * d, k = t * kv * d, half = 2 * t * t * heads * d; // causal: half of 4·t²·heads·d
  const attention = [t, 1, heads, kv, d, 0, d ** -.5], end = Int32Array.of(t);
  const product = (m: number, n: number, inputs: number): Omit<Case, "name"> => ({
    kind: "matmul",
    ins: [m * inputs, n * inputs],
    outs: [m * n],
    attrs: [m, n, inputs, 0, 0],
    flops: 2 * m * n * inputs,
    bytes: 2 * (m * inputs + n * inputs + m * n),
  });
  const a = Math.min(t, 4096);
  const rows = Math.min(64, t),
    context = Math.min(1024, t),
    maxPages = Math.ceil(context / 16),
    pages = rows * maxPages;
  return [
    { name: "training product", ...product(t, inner, h) },
    { name: "decode product, 8 rows", ...product(Math.min(8, t), inner, h) },
    { name: "decode product, 64 rows", ...product(rows, inner, h) },
    {
      name: "attention",
      kind: "attention",
      ins: [q, k, k, end],
      outs: [q, t * heads],
      attrs: attention,
      flops: half,
      bytes: 2 * (2 * q + 2 * k),
      f32: [5],
    },
    {
      name: "attention, backward",
      kind: "attentionGrad",
      ins: [q, q, k, k, q, t * heads, end],
      outs: [q, k, k],
      attrs: attention,
      flops: 2.5 * half,
      bytes: 2 * (4 * q + 4 * k),
      f32: [5],
    },
    {
      name: "decode attention, 64 rows",
      kind: "pagedAttention",
      ins: [
        rows * heads * d,
        2 * pages * kv * d * 16,
        range(rows, (i) => i),
        range(rows, () => context - 1),
        range(pages, (i) => i),
      ],
      outs: [rows * heads * d],
      attrs: [rows, heads, kv, d, 0, d ** -.5, 0, pages, maxPages],
      flops: 4 * rows * context * heads * d,
      bytes: 2 * 2 * pages * kv * d * 16,
    },
    {
      name: "rmsnorm",
      kind: "rmsnorm",
      ins: [t * h, h],
      outs: [t * h, t],
      attrs: [t, h, 1e-6],
      flops: 0,
      bytes: 4 * t * h,
      f32: [3],
    },
    {
      name: "swiglu",
      kind: "swiglu",
      ins: [t * inner, t * inner],
      outs: [t * inner],
      attrs: [t * inner],
      flops: 0,
      bytes: 6 * t * inner,
    },
    {
      name: "log-probabilities",
      kind: "linearLogprob",
      ins: [a * h, vocabulary * h, range(a, (i) => i % vocabulary), 1],
      outs: [a, a],
      attrs: [a, h, vocabulary, 0, 0, 0],
      flops: 2 * a * h * vocabulary,
      bytes: 2 * (a * h + vocabulary * h),
      f32: [3, 4, 5],
    },
    {
      name: "log-probabilities, backward",
      kind: "linearLogprobGrad",
      ins: [a, a * h, vocabulary * h, range(a, (i) => i % vocabulary), 1, a, vocabulary * h],
      outs: [a * h, vocabulary * h],
      attrs: [a, h, vocabulary, 1, 0, 0, vocabulary, 0, 0],
      flops: 6 * a * h * vocabulary,
      bytes: 2 * (2 * a * h + vocabulary * h) + 8 * vocabulary * h,
      f32: [0, 4, 5, 6, 8],
    },
  ];
}

openGpus([0]);
using device = Device.open({ threads: 1, gpu: 0 });
const small = describe().gpus?.[0]?.name === "emulation";
const all = small
  ? [...cases(40, 32, 2, 1, 16, 48, 160), ...rowCases(40, 2, 32, 2, 1, 16, 48)]
  : [...cases(8192, 4096, 32, 8, 128, 14336, 128256), ...rowCases(8192, 64, 4096, 32, 8, 128, 14336)];
const shares: string[] = [];
for (const { name, flops, bytes, ...one } of all) {
  const work = { flops, bytes },
    seconds = await operationSeconds(device, { dtype: "bf16", ...one }, small ? 3 : 11),
    floor = floorSeconds(work);
  const percent = Number((100 * floor / seconds).toPrecision(3));
  shares.push(`${name} ${percent} %`);
  console.log(JSON.stringify({
    what: shares.at(-1),
    ms: seconds * 1e3,
    floorMs: floor * 1e3,
    TFlops: 1e-12 * work.flops / seconds,
    GBps: 1e-9 * work.bytes / seconds,
  }));
}
console.log(JSON.stringify({ what: `of the floor: ${shares.join(", ")}`, best: true }));
Deno.exit(0);
