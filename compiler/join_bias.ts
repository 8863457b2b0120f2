/** Lets a product add its bias itself: one pass over its result less, and in bf16 one rounding less. */
import type { Op, Segment, Value } from "../ir/op.ts";

/** Segments in which a result has a place that no other value of the program has. */
const OWN: ReadonlySet<Segment> = new Set(["arena", "saved", "outputs"]);

/** Joins a bias to the product before it, where nothing else reads what the product gives. */
export function joinBiases(ops: readonly Op[]): Op[] {
  const reads = new Map<Value, number>(), products = new Map<Value, Op>(), biases = new Map<Op, Op>();
  for (const op of ops) {
    for (const v of op.ins) reads.set(v, (reads.get(v) ?? 0) + 1);
    if (op.kind === "matmul" && !op.outs[0]!.place) products.set(op.outs[0]!, op);
  }
  for (const op of ops) {
    // Whether the result is kept for another program may not decide how it is rounded: nothing else has that place.
    if (op.kind !== "addBias" || !OWN.has(op.outs[0]!.place?.segment ?? "arena")) continue;
    const [y, bias] = op.ins as [Value, Value], product = products.get(y);
    // A parameter is there when the product runs, whatever comes between the two.
    if (product && reads.get(y) === 1 && bias.place?.segment === "params") biases.set(product, op);
  }
  const gone = new Set(biases.values());
  return ops.filter((op) => !gone.has(op)).map((op) => {
    const bias = biases.get(op);
    return bias
      ? { ...op, ins: [...op.ins, bias.ins[1]!], outs: bias.outs, attrs: [...op.attrs.slice(0, -1), 1] }
      : op;
  });
}
