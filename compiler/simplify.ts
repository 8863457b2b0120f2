/** Rewrites that remove work: outputs made in their place, copies read at their source, results that nothing reads. */
import type { Op, Value } from "../ir/op.ts";
import type { Builder } from "./builder.ts";
import { size } from "./shape.ts";

/** Lets the operation that makes an output write it to its place; a value that has a place already is copied. */
export function pinOutputs(b: Builder, ops: readonly Op[]): Op[] {
  const target = new Map<Value, Value>(), copies: Op[] = [];
  for (const [v, place] of b.pinned) {
    if (v.place || target.has(v)) {
      copies.push({ kind: "copy", ins: [v], outs: [place], attrs: [size(v.shape)] });
    } else target.set(v, place);
  }
  const move = (v: Value) => target.get(v) ?? v;
  return [...ops, ...copies].map((op) => ({ ...op, ins: op.ins.map(move), outs: op.outs.map(move) }));
}

/** Reads every copy that has no place of its own at its source. */
export function forwardCopies(ops: readonly Op[]): Op[] {
  const source = new Map<Value, Value>(), out: Op[] = [];
  for (const op of ops) {
    const ins = op.ins.map((v) => source.get(v) ?? v);
    if (op.kind === "copy" && !op.outs[0]!.place) source.set(op.outs[0]!, ins[0]!);
    else out.push({ ...op, ins });
  }
  return out;
}

/**
 * Drops operations whose results are neither read, nor at a fixed place, nor asked for. An operation without results changes state.
 *
 * @param asked values that will get a fixed place
 */
export function removeDead(ops: readonly Op[], asked: Iterable<Value> = []): Op[] {
  const read = new Set<Value>(asked), live: Op[] = [];
  for (const op of ops.toReversed()) {
    if (op.outs.length > 0 && !op.outs.some((v) => v.place || read.has(v))) continue;
    op.ins.forEach((v) => read.add(v));
    live.push(op);
  }
  return live.reverse();
}
