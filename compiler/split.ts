/** Cuts one recording into programs: what the second reads of the first lies in the `saved` segment between them. */
import type { Op, Value } from "../ir/op.ts";
import type { Program } from "../ir/program.ts";
import type { Builder } from "./builder.ts";
import { finish, type FinishOptions } from "./finish.ts";
import { removeDead } from "./simplify.ts";

/**
 * The forward and the backward program of a pipeline stage. Both declare every input, output and saved value, so that one set of
 * segments serves both.
 *
 * @param closing a backward pass with more operations, if there is one
 */
export function finishSplit(
  name: string,
  b: Builder,
  [forward, backward]: readonly [readonly Op[], readonly Op[]],
  o: FinishOptions,
  closing?: Pick<FinishOptions, "unplanned"> & { readonly ops: readonly Op[] },
): { readonly forward: Program; readonly backward: Program; readonly closing: Program | null } {
  const saved = new Map<Value, Value>(), made = new Set(forward.flatMap((op) => op.outs));
  const pinned = new Set(b.pinned.map(([v]) => v));
  for (const v of new Set(removeDead(backward, pinned).flatMap((op) => op.ins))) {
    if (!made.has(v) || v.place || pinned.has(v)) continue;
    saved.set(v, b.declare("saved", `${v.name}#${v.id}`, v.shape, { dtype: v.dtype }));
  }
  const move = (v: Value) => saved.get(v) ?? v;
  const moved = (ops: readonly Op[]): Op[] =>
    ops.map((op) => ({ ...op, ins: op.ins.map(move), outs: op.outs.map(move) }));
  return {
    forward: finish(`${name}, forward`, b, moved(forward), o),
    backward: finish(`${name}, backward`, b, moved(backward), o),
    closing: closing ? finish(`${name}, closing`, b, moved(closing.ops), { ...o, ...closing }) : null,
  };
}
