/** The compiler: a call and its sizes → a device program. */
export { compileCompute, type ComputeOptions } from "./calls/compute.ts";
export { compileFold } from "./calls/fold.ts";
export { compileCopyPages, compileDecode, compilePrefill, type GenerateOptions } from "./calls/generate.ts";
export { compileInfer, type InferOptions, type InferOutput } from "./calls/infer.ts";
export { compileTrain, type RankTrain, type TrainOptions } from "./calls/train.ts";
export { compileUpdate, type UpdateOptions } from "./calls/update.ts";
export { keepsTogether } from "./expression.ts";
