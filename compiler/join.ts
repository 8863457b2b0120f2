/**
 * Joins operations that pass over the same rows one behind the other: a sum and the norm of it, both gradients of a norm, the
 * rotations of queries and keys with the norms before them, the writing of rotated keys into the cache, and products of the same rows
 * (`join_products.ts`). No result changes, to the bit.
 */
import { type Op, POINTWISE, type Value } from "../ir/op.ts";
import { worksInPlace } from "./fuse.ts";
import { productsOfSameRows } from "./join_products.ts";
import { type Joined, type Placed, Reads, replace, take } from "./reads.ts";
import { sameDim } from "./shape.ts";

export function join(ops: readonly Op[]): Op[] {
  const finders = [sumsAndNorms, gradientsOfNorms, rotations, keysIntoCache, productsOfSameRows];
  return finders.reduce((now, find) => replace(now, find(new Reads(now))), [...ops]);
}

/** s = x + r, y = norm(s): s is written and read once. */
function sumsAndNorms(reads: Reads) {
  const found: Placed[] = [];
  for (const norm of reads.ops) {
    if (norm.kind !== "rmsnorm") continue;
    const [s, w] = norm.ins as [Value, Value], sum = reads.maker.get(s);
    if (!sum || !isSum(sum) || worksInPlace(sum)) continue;
    const ins = [...sum.ins, w], outs = [s, ...norm.outs];
    if (new Set([...ins, ...outs.slice(0, 2)].map((v) => v.dtype)).size > 1) continue;
    take(reads, found, {
      members: [sum, norm],
      op: { kind: "addRmsnorm", ins, outs, attrs: norm.attrs },
    });
  }
  return found;
}

/** One addition of two tensors and nothing else. */
const isSum = (op: Op): boolean =>
  op.kind === "pointwise" && [2, 1, 1, 1, 1, POINTWISE.add, 0, 1].every((a, i) => op.attrs[1 + i] === a);

/** Both gradients of a norm read the same rows. */
function gradientsOfNorms(reads: Reads) {
  const found: Placed[] = [];
  for (const dw of reads.ops) {
    if (dw.kind !== "rmsnormDw") continue;
    const [dy, x, rstd, ...sum] = dw.ins as [Value, Value, Value, ...Value[]], [rows, width, flag] = dw.attrs;
    const dx = reads.readers(dy).find((op) =>
      op.kind === "rmsnormDx" && op.ins[0] === dy && op.ins[1] === x && op.ins[3] === rstd
    );
    if (!dx) continue;
    const ins = [...dx.ins, ...sum], outs = [...dx.outs, ...dw.outs];
    take(reads, found, {
      members: [dw, dx],
      op: { kind: "rmsnormGrad", ins, outs, attrs: [rows!, width!, dx.attrs[2]!, flag!] },
    });
  }
  return found;
}

/** Two rotations by the same angles; the norms of both before them if nothing else reads what they make. */
function rotations(reads: Reads) {
  const found: Placed[] = [];
  let last: Op | undefined;
  for (const op of reads.ops) {
    if (op.kind !== "rope") continue;
    const before = found.length;
    if (last) take(reads, found, rotationsOf(reads, last, op));
    last = found.length > before ? undefined : op;
  }
  return found;
}

function rotationsOf(reads: Reads, a: Op, b: Op): Joined | undefined {
  const angles = [1, 2].every((i) => a.ins[i] === b.ins[i]) &&
    [0, 2, 3].every((i) => sameDim(a.attrs[i]!, b.attrs[i]!));
  if (!angles || a.ins[0]!.dtype !== b.ins[0]!.dtype) return undefined;
  const [q, k] = a.attrs[1]! >= b.attrs[1]! ? [a, b] : [b, a],
    heads = [q, k].map((op) => op.attrs[1] as number);
  if (heads[0]! % heads[1]! !== 0) return undefined;
  const [rows, , width, direction] = q.attrs, shape = [rows!, ...heads, width!, direction!];
  const norms = [q, k].map((op) => normBefore(reads, op)), [first, second] = norms;
  const [, positions, table] = q.ins as [Value, Value, Value];
  if (!first || !second || first.attrs[2] !== second.attrs[2]) {
    const ins = [q.ins[0]!, k.ins[0]!, positions, table], outs = [q.outs[0]!, k.outs[0]!];
    return { members: [a, b], op: { kind: "ropes", ins, outs, attrs: [...shape, 0, 0] } };
  }
  const ins = [first.ins[0]!, second.ins[0]!, positions, table, first.ins[1]!, second.ins[1]!];
  const outs = [q.outs[0]!, k.outs[0]!, first.outs[1]!, second.outs[1]!];
  return {
    members: [first, second, q, k],
    op: { kind: "ropes", ins, outs, attrs: [...shape, first.attrs[2]!, 1] },
  };
}

/** The norm of every head whose result a rotation alone reads. */
function normBefore(reads: Reads, rope: Op): Op | undefined {
  const [x] = rope.ins as [Value], norm = reads.maker.get(x);
  const fits = norm?.kind === "rmsnorm" && norm.attrs[1] === rope.attrs[2] && reads.readByNoneBut(x, rope) &&
    new Set([...norm.ins, x].map((v) => v.dtype)).size === 1;
  return fits ? norm : undefined;
}

/** Keys go into the cache as they are rotated, and are kept beside it only where something else reads them. */
function keysIntoCache(reads: Reads) {
  const found: Placed[] = [];
  for (const write of reads.ops) {
    if (write.kind !== "kvWrite") continue;
    const [k, v, slots, positions, pageTable, finished] = write.ins as [
      Value,
      Value,
      Value,
      Value,
      Value,
      Value,
    ];
    const rotate = reads.maker.get(k);
    if (rotate?.kind !== "ropes" || rotate.outs[1] !== k || rotate.ins[2] !== positions) continue;
    const [q, own, , table, ...weights] = rotate.ins as [Value, Value, Value, Value, ...Value[]];
    const [rotated, , ...statistics] = rotate.outs as [Value, Value, ...Value[]];
    const [rows, heads, kv, width, direction, eps, norm] = rotate.attrs;
    if (direction !== 1 || statistics.some((x) => !reads.readByNoneBut(x, write)) || v.dtype !== k.dtype) {
      continue;
    }
    const keep = reads.readByNoneBut(k, write) ? [] : [k];
    take(reads, found, {
      members: [rotate, write],
      op: {
        kind: "ropeKvWrite",
        ins: [q, own, v, positions, table, slots, pageTable, finished, ...weights],
        outs: [rotated, ...keep, write.outs[0]!],
        attrs: [rows!, heads!, kv!, width!, ...write.attrs.slice(3), eps!, norm!, keep.length],
      },
    });
  }
  return found;
}
