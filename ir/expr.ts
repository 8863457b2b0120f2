/** Traced arithmetic on fields: a pure tensor function in A-normal form. Imports only `field`. */
import type { Granularity } from "./field.ts";

export const UNARY = [
  "neg",
  "exp",
  "log",
  "abs",
  "sqrt",
  "square",
  "sigmoid",
  "logSigmoid",
  "detach",
] as const;
export const BINARY = ["add", "sub", "mul", "div", "min", "max", "lt", "ge"] as const;
/**
 * Operations that change granularity or look at neighbours.
 * `sum`/`mean`: any → batch (a loss: over the mini-batch; `compute`: over the step batch).
 * `sumPerSequence`/`meanPerSequence`: token → sequence, over actions. `last`: token → sequence (value at the last action).
 * `spread`: sequence → token. `atEnd`: sequence → token, zero but at the last action.
 * `groupSum`/`groupMean`/`groupStd`: sequence → sequence, over the samples of one prompt (groupStd has attrs unbiased 0|1,
 * eps). `chosen`/`rejected`: sequence → pair (sequences 2i and 2i+1). `gae`: (rewards, values, finalValues per sequence) →
 * token (attrs gamma, lambda).
 */
export const SHAPE = [
  "sum",
  "mean",
  "sumPerSequence",
  "meanPerSequence",
  "last",
  "spread",
  "atEnd",
  "groupSum",
  "groupMean",
  "groupStd",
  "chosen",
  "rejected",
  "gae",
] as const;

/** Those that look at all samples of a prompt. */
export const GROUPWISE: readonly string[] = ["groupSum", "groupMean", "groupStd"];

export type UnaryKind = typeof UNARY[number];
export type BinaryKind = typeof BINARY[number];
export type ShapeKind = typeof SHAPE[number];

/** One recorded operation. `args` are indexes of earlier operations. */
export type ExprOp =
  | { readonly op: "input"; readonly field: string; readonly from: "model" | "batch" | "state" }
  | { readonly op: "const"; readonly value: number }
  | { readonly op: UnaryKind; readonly args: readonly [number] }
  | { readonly op: BinaryKind; readonly args: readonly [number, number] }
  | { readonly op: "where"; readonly args: readonly [condition: number, then: number, otherwise: number] }
  | {
    readonly op: ShapeKind;
    readonly args: readonly number[];
    readonly attrs?: Readonly<Record<string, number>>;
  };

/** Only numbers (`const`, per batch) and batch scalars broadcast; the tracer guarantees it. */
export interface Expr {
  readonly ops: readonly (ExprOp & { readonly per: Granularity })[];
  /** Result name → operation index. A loss has `loss` and any metrics; `compute` has its fields. */
  readonly outputs: Readonly<Record<string, number>>;
}
