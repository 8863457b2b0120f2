/**
 * Joins operations that pass over the same rows one behind the other: a sum and the norm of it, both gradients of a norm, the
 * rotations of queries and keys with the norms before them, and the writing of rotated keys into the cache. No result changes, to the bit.
 */
import { type Op, POINTWISE, type Value } from "../ir/op.ts";
import { worksInPlace } from "./fuse.ts";
import { sameDim } from "./shape.ts";

/** A joined operation and those that it takes the place of. */
interface Joined {
  readonly members: readonly Op[];
  readonly op: Op;
}

export function join(ops: readonly Op[]): Op[] {
  return [sumsAndNorms, gradientsOfNorms, rotations, keysIntoCache].reduce(
    (now, find) => replace(now, find(new Reads(now))),
    [
      ...ops,
    ],
  );
}

/** Who makes and who reads every value of a list of operations. */
class Reads {
  readonly maker = new Map<Value, Op>();
  readonly position = new Map<Op, number>();
  readonly #readers = new Map<Value, Op[]>();

  constructor(readonly ops: readonly Op[]) {
    ops.forEach((op, i) => {
      this.position.set(op, i);
      op.outs.forEach((v) => this.maker.set(v, op));
      op.ins.forEach((v) => this.#readers.set(v, [...this.readers(v), op]));
    });
  }

  readers(v: Value): readonly Op[] {
    return this.#readers.get(v) ?? [];
  }
  /** Whether v lives between `op` and who else makes or reads it at all. */
  readByNoneBut(v: Value, op: Op): boolean {
    return v.place === undefined && this.readers(v).every((reader) => reader === op);
  }

  /** Where one operation can stand for all of these: behind what they read, before what reads them. */
  spot(members: readonly Op[]): number | undefined {
    const own = new Set(members), at = members.map((op) => this.position.get(op)!).sort((a, b) => a - b);
    return at.find((p) =>
      members.every((op) =>
        op.ins.every((v) => {
          const maker = this.maker.get(v);
          return !maker || own.has(maker) || this.position.get(maker)! < p;
        }) &&
        op.outs.every((v) => this.readers(v).every((r) => own.has(r) || this.position.get(r)! > p)) &&
        this.#passes(op, p, own)
      )
    );
  }
  /** Whether nothing between an operation and position p writes where it reads, or touches what it writes. */
  #passes(op: Op, p: number, own: ReadonlySet<Op>): boolean {
    const i = this.position.get(op)!,
      reads = op.ins.filter((v) => v.place),
      writes = op.outs.filter((v) => v.place);
    if (reads.length + writes.length === 0) return true;
    return this.ops.slice(Math.min(i, p), Math.max(i, p) + 1).every((other) =>
      own.has(other) ||
      !other.outs.some((v) => [...reads, ...writes].some((x) => samePlace(x, v))) &&
        !other.ins.some((v) => writes.some((x) => samePlace(x, v)))
    );
  }
}

const samePlace = (x: Value, y: Value): boolean =>
  x.place !== undefined && y.place?.segment === x.place.segment && y.place.offset === x.place.offset;

/** Puts every joined operation in the place of its members, as far as there is one for it. */
function replace(ops: Op[], found: readonly (Joined & { readonly at: number })[]): Op[] {
  const out: (Op | null)[] = [...ops], position = new Map(ops.map((op, i) => [op, i]));
  for (const { members, op, at } of found) {
    members.forEach((member) => out[position.get(member)!] = null);
    out[at] = op;
  }
  return out.filter((op) => op !== null);
}

/** Adds a joined operation to `found` unless a member is taken or there is no place for it. */
function take(reads: Reads, found: (Joined & { readonly at: number })[], joined: Joined | undefined): void {
  if (!joined || found.some(({ members }) => members.some((op) => joined.members.includes(op)))) return;
  const at = reads.spot(joined.members);
  if (at !== undefined) found.push({ ...joined, at });
}

/** s = x + r, y = norm(s): s is written and read once. */
function sumsAndNorms(reads: Reads) {
  const found: (Joined & { readonly at: number })[] = [];
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
  const found: (Joined & { readonly at: number })[] = [];
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
  const found: (Joined & { readonly at: number })[] = [];
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
  const found: (Joined & { readonly at: number })[] = [];
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
