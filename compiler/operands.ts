/** What every stage after recording must know of an operation's operands: counts, sizes, sums that continue, reuse. */
import type { Op, OpKind } from "../ir/op.ts";

/** Positions of the attributes that are sizes (`n:` in `ir/op.ts`); `cuda/common/opcodes.h` lists the same. */
export const SIZE_ATTRIBUTES: Readonly<Record<OpKind, readonly number[]>> = {
  embedding: [0],
  embeddingGrad: [0],
  matmul: [0],
  matmulDx: [0],
  matmulDw: [0],
  addBias: [0],
  columnSum: [0],
  rmsnorm: [0],
  rmsnormDx: [0],
  rmsnormDw: [0],
  rope: [0],
  attention: [0, 1],
  attentionGrad: [0, 1],
  swiglu: [0],
  swigluGrad: [0],
  linearLogprob: [0],
  linearLogprobGrad: [0],
  gatherRows: [0, 2],
  scatterRows: [0, 2],
  pointwise: [0],
  segmentSum: [0, 1],
  segmentSpread: [0, 1],
  segmentLast: [0, 1],
  segmentAtEnd: [0, 1],
  segmentLength: [0],
  total: [0],
  strideGather: [0],
  strideScatter: [0],
  gae: [0, 1],
  squareSums: [],
  adamw: [],
  copy: [0],
  fill: [0],
  kvWrite: [0],
  pagedAttention: [0],
  sample: [0],
  copyPages: [0],
  shardLogprob: [0],
  allReduce: [0],
  allGatherRows: [0],
  reduceScatterRows: [0],
  ownRows: [0],
  allGatherColumns: [0],
  sumDoubles: [],
  norm: [],
  sampleKept: [0],
  keptLogits: [0],
  keptLogitsDx: [0],
  keptLogitsDw: [0],
  keptLogprob: [0],
  keptLogprobGrad: [0],
  linearLogprobDx: [0],
  matmul3: [0],
  matmul2: [0],
  gatedMatmul: [0],
  addRmsnorm: [0],
  ropes: [0],
  ropeKvWrite: [0],
  rmsnormGrad: [0],
  reduceOwnRows: [],
};

/** Operations that can continue a sum: position of the flag, and the output that continues the last input. */
const CONTINUES: Partial<Record<OpKind, readonly [flag: number, output: number]>> = {
  embeddingGrad: [4, 0],
  matmulDx: [3, 0],
  matmulDw: [3, 0],
  columnSum: [2, 0],
  rmsnormDx: [2, 0],
  rmsnormDw: [2, 0],
  linearLogprobGrad: [3, 1],
  scatterRows: [3, 0],
  total: [1, 0],
  keptLogitsDw: [4, 0],
  rmsnormGrad: [3, 1],
};

/** The output that continues the sum in the last input, when there is one. */
export function continued(op: Op): number | undefined {
  const rule = CONTINUES[op.kind];
  return rule && op.attrs[rule[0]] === 1 ? rule[1] : undefined;
}

/** [output, input] pairs that may share memory, best first. Kernels work elementwise there; results never depend on it. */
export function reusable(op: Op): readonly (readonly [output: number, input: number])[] {
  const output = continued(op), own = output === undefined ? [] : [[output, op.ins.length - 1] as const];
  if (op.kind === "rmsnormGrad") return op.attrs[2] === 1 ? [...own, [0, 4]] : own;
  if (output !== undefined) return own;
  switch (op.kind) {
    case "addBias":
    case "rope":
    case "allReduce":
    case "sumDoubles":
    case "reduceOwnRows":
      return [[0, 0]];
    case "swiglu":
      return [[0, 0], [0, 1]];
    case "addRmsnorm":
      return [[0, 0], [0, 1], [1, 1], [1, 0]];
    case "ropes":
      return [[0, 0], [1, 1]];
    case "ropeKvWrite":
      return op.attrs[9] === 1 ? [[0, 0], [1, 1]] : [[0, 0]];
    case "swigluGrad":
      return [[0, 1], [1, 2], [0, 0], [1, 0]];
    case "pointwise": {
      // A chain may read an input again after it wrote an output.
      const [, inputs, instructions, outputs] = op.attrs as number[];
      if (instructions !== 1 || outputs !== 1) return [];
      return op.ins.flatMap((_, i) => i < inputs! && op.attrs[4 + i] === 1 ? [[0, i] as const] : []);
    }
    default:
      return [];
  }
}

/** Whether there are kept logits, `step` elements from row to row. */
const keeps = (step: number): number => step ? 1 : 0;

/** Inputs and outputs of an operation as `ir/op.ts` lists them. */
export function operandCounts(op: Op): readonly [ins: number, outs: number] {
  const prior = continued(op) === undefined ? 0 : 1, a = op.attrs as readonly number[];
  switch (op.kind) {
    case "embedding":
    case "addBias":
    case "gatherRows":
    case "segmentSum":
    case "segmentSpread":
    case "segmentLast":
    case "segmentAtEnd":
    case "swiglu":
      return [2, 1];
    case "matmul":
      return [2 + a[4]!, 1];
    case "embeddingGrad":
    case "matmulDx":
    case "matmulDw":
    case "scatterRows":
      return [2 + prior, 1];
    case "columnSum":
    case "total":
      return [1 + prior, 1];
    case "rmsnorm":
      return [2, 2];
    case "rmsnormDx":
      return [4 + prior, 1];
    case "rmsnormDw":
      return [3 + prior, 1];
    case "rope":
      return [3, 1];
    case "attention":
      return [4, 2];
    case "attentionGrad":
      return [7, 3];
    case "swigluGrad":
      return [3, 2];
    case "linearLogprob":
      return [4, 2 + a[3]! + keeps(a[4]!)];
    case "linearLogprobGrad":
      return [6 + 2 * a[4]! + keeps(a[7]!) + prior, 2];
    case "pointwise":
      return [a[1]!, a[3]!];
    case "segmentLength":
    case "strideGather":
    case "strideScatter":
    case "copy":
      return [1, 1];
    case "gae":
      return [4, 1];
    case "squareSums":
      return [(a.length - 1) / 2, 1];
    case "adamw":
      return [6, 3 + a[6]!];
    case "fill":
      return [0, 1];
    case "kvWrite":
      return [6, 1];
    case "pagedAttention":
      return [5, 1];
    case "sample":
      return [10, 0];
    case "sampleKept":
      return [11, 0];
    case "keptLogits":
    case "keptLogitsDx":
      return [3, 1];
    case "keptLogitsDw":
      return [3 + prior, 1];
    case "keptLogprob":
      return [4, 2 + a[2]!];
    case "keptLogprobGrad":
      return [6 + 2 * a[2]!, 1];
    case "linearLogprobDx":
      return [6 + 2 * a[3]! + keeps(a[6]!), 1];
    case "matmul3":
      return [4 + 3 * a[6]!, 3];
    case "matmul2":
      return [3 + 2 * a[5]!, 2];
    case "gatedMatmul":
      return [3, 1];
    case "addRmsnorm":
      return [3, 3];
    case "rmsnormGrad":
      return [4 + a[2]! + prior, 2];
    case "ropes":
      return [4 + 2 * a[6]!, 2 + 2 * a[6]!];
    case "ropeKvWrite":
      return [8 + 2 * a[8]!, 2 + a[9]!];
    case "copyPages":
      return [3, 1];
    case "shardLogprob":
      return [4, 3 + a[3]! + keeps(a[7]!)];
    case "allReduce":
    case "allGatherRows":
    case "reduceScatterRows":
    case "ownRows":
    case "allGatherColumns":
    case "sumDoubles":
    case "norm":
    case "reduceOwnRows":
      return [1, 1];
  }
}
