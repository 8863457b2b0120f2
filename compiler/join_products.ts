/** Joins products that read the same rows: queries, keys and values; gate and up, with `swiglu` where nothing else reads them. */
import type { Attr, Op, OpKind, Value } from "../ir/op.ts";
import { type Joined, type Placed, type Reads, take } from "./reads.ts";
import { showDim } from "./shape.ts";

/** Most products of one operation. */
const MOST = 3;
const KINDS: Readonly<Record<number, OpKind>> = { 2: "matmul2", 3: "matmul3" };

export function productsOfSameRows(reads: Reads): Placed[] {
  const found: Placed[] = [];
  for (const op of reads.ops) if (op.kind === "swiglu") take(reads, found, gated(reads, op));
  const gone = new Set(found.flatMap(({ members }) => members));
  const products = reads.ops.filter((op) => op.kind === "matmul" && !gone.has(op));
  for (const same of Map.groupBy(products, rowsOf).values()) {
    for (const alike of Map.groupBy(same, shapeOf).values()) {
      const groups = Math.ceil(alike.length / MOST),
        cut = (i: number) => Math.floor(alike.length * i / groups);
      for (let i = 0; i < groups; i++) take(reads, found, together(alike.slice(cut(i), cut(i + 1))));
    }
  }
  return found;
}

const rowsOf = (product: Op): Value => product.ins[0]!;
/** What products that are joined have in common, beside their rows. */
const shapeOf = ({ ins, outs, attrs: [m, , k, panels, biased] }: Op): string =>
  [showDim(m!), k, panels, biased, ...[...ins, ...outs].map((v) => v.dtype)].join(" ");

/** Products of the same rows, one behind the other. */
function together(members: readonly Op[]): Joined | undefined {
  const kind = KINDS[members.length],
    [m, , k, panels, biased] = members[0]!.attrs as [Attr, Attr, Attr, Attr, Attr];
  if (!kind) return undefined;
  const ins = [rowsOf(members[0]!), ...[1, 2].flatMap((i) => members.flatMap((op) => op.ins[i] ?? []))];
  const attrs = [m, ...members.map((op) => op.attrs[1]!), k, panels, biased];
  return { members, op: { kind, ins, outs: members.flatMap((op) => op.outs), attrs } };
}

/** A gate and what it lets through, both products of the same rows that nothing else reads. */
function gated(reads: Reads, op: Op): Joined | undefined {
  const products = op.ins.map((v) => reads.maker.get(v)), [gate, up] = products;
  if (gate?.kind !== "matmul" || up?.kind !== "matmul" || gate === up) return undefined;
  const [x, wg] = gate.ins as [Value, Value],
    [m, n, k, panels, biased] = gate.attrs as [Attr, Attr, Attr, Attr, Attr];
  const fits = biased === 0 && rowsOf(up) === x && shapeOf(up) === shapeOf(gate) && up.attrs[1] === n &&
    x.dtype === op.ins[0]!.dtype && op.ins.every((v) => reads.readByNoneBut(v, op));
  if (!fits) return undefined;
  return {
    members: [gate, up, op],
    op: { kind: "gatedMatmul", ins: [x, wg, up.ins[1]!], outs: op.outs, attrs: [m, n, k, panels] },
  };
}
