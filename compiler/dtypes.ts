/** What results are stored in: the one place that decides it. Everything follows from the type of a model's parameters. */
import type { DType, OpKind, Value } from "../ir/op.ts";
import { isScalar } from "./shape.ts";

/**
 * For every output of an operation, the input whose type it has; f32 where none is named. So the rows of a bf16 embedding make
 * a bf16 residual stream, and what the head says about it (log-probabilities, and the sums that norms and attention keep) is f32.
 */
const FOLLOWS: Partial<Record<OpKind, readonly number[]>> = {
  embedding: [1],
  matmul: [0],
  addBias: [0],
  rmsnorm: [0],
  rope: [0],
  attention: [0],
  swiglu: [0],
  gatherRows: [0],
  copy: [0],
  pagedAttention: [0],
  allReduce: [0],
  allGatherRows: [0],
  reduceScatterRows: [0],
  ownRows: [0],
  reduceOwnRows: [0],
  allGatherColumns: [0],
};

/** The type of output `output` of an operation over given inputs. Gradients have the type of what they are gradients of. */
export function resultType(kind: OpKind, ins: readonly Value[], output = 0): DType {
  if (kind === "pointwise") return ins.find((v) => v.dtype !== "f32" && !isScalar(v.shape))?.dtype ?? "f32";
  const input = FOLLOWS[kind]?.[output];
  return input === undefined ? "f32" : ins[input]!.dtype;
}
