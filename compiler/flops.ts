/** Useful floating point operations: those of products and attention, which are nearly all. */
import { type Attr, extent, type Maxima, type Op } from "../ir/op.ts";

export function flops(op: Op, live: Maxima): number {
  const at = (i: number) => extent(op.attrs[i] as Attr, live);
  switch (op.kind) {
    case "matmul":
    case "matmulDx":
    case "matmulDw":
    case "linearLogprob":
    case "shardLogprob":
      return 2 * at(0) * at(1) * at(2);
    case "matmul3":
      return 2 * at(0) * (at(1) + at(2) + at(3)) * at(4);
    case "matmul2":
      return 2 * at(0) * (at(1) + at(2)) * at(3);
    case "gatedMatmul":
      return 4 * at(0) * at(1) * at(2);
    case "linearLogprobGrad":
      // The logits again unless they were kept, then both gradients.
      return (at(7) ? 4 : 6) * at(0) * at(1) * at(2);
    case "linearLogprobDx":
      return (at(6) ? 2 : 4) * at(0) * at(1) * at(2);
    case "keptLogits":
    case "keptLogitsDx":
    case "keptLogitsDw":
      return 2 * at(0) * at(1) * at(3);
    case "attention":
    case "attentionGrad": {
      // Two products forward and five backward over half of the square; sequences taken as equally long.
      const [tokens, sequences, heads, , headDim] = [at(0), at(1), at(2), at(3), at(4)];
      const pairs = sequences ? tokens * tokens / sequences / 2 : 0;
      return (op.kind === "attention" ? 4 : 10) * pairs * heads! * headDim!;
    }
    default:
      return 0;
  }
}
