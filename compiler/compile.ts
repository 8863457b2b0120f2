/** The compiler: a call and its sizes → a device program. */
import type { Maxima } from "../ir/op.ts";

/** Largest live dims that a program must take. */
export interface Sizes {
  readonly maxima: Maxima;
}

export { compileCompute, type ComputeOptions } from "./calls/compute.ts";
export { compileCopyPages, compileDecode, compilePrefill, type GenerateOptions } from "./calls/generate.ts";
export { compileInfer, type InferOptions, type InferOutput } from "./calls/infer.ts";
export { compileTrain, type TrainOptions } from "./calls/train.ts";
export { compileUpdate } from "./calls/update.ts";
export { keepsTogether } from "./expression.ts";
