/** Gradient checkpointing as a rewrite: values that the backward pass would keep alive are made again where it reads them. */
import type { Op, Value } from "../ir/op.ts";
import type { Builder } from "./builder.ts";

/**
 * @param forward how many operations are the forward pass
 * @param dropped whether a result of a forward operation is dropped after the forward pass
 */
export function rematerialise(
  b: Builder,
  ops: readonly Op[],
  forward: number,
  dropped: (op: Op, result: Value) => boolean,
): Op[] {
  const maker = new Map<Value, Op>(), again = new Map<Value, Value>(), out: Op[] = ops.slice(0, forward);
  for (const op of out) op.outs.forEach((v) => dropped(op, v) && maker.set(v, op));
  /** The value that the backward pass reads instead of v. */
  const current = (v: Value): Value => {
    const op = maker.get(v);
    if (!op) return v;
    if (!again.has(v)) {
      const ins = op.ins.map(current),
        outs = op.outs.map((o) => b.value(`${o.name}*`, o.shape, { dtype: o.dtype }));
      op.outs.forEach((o, i) => again.set(o, outs[i]!));
      out.push({ ...op, ins, outs });
    }
    return again.get(v)!;
  };
  for (const op of ops.slice(forward)) {
    const ins = op.ins.map(current);
    out.push({ ...op, ins });
  }
  return out;
}
