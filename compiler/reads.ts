/** Where one operation can stand for several, and the lists of operations with it in their place. */
import type { Op, Value } from "../ir/op.ts";

/** A joined operation and those that it takes the place of. */
export interface Joined {
  readonly members: readonly Op[];
  readonly op: Op;
}

/** One with a position among the operations. */
export type Placed = Joined & { readonly at: number };

/** Who makes and who reads every value of a list of operations. */
export class Reads {
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

  /** In their order. */
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
export function replace(ops: readonly Op[], found: readonly Placed[]): Op[] {
  const out: (Op | null)[] = [...ops], position = new Map(ops.map((op, i) => [op, i]));
  for (const { members, op, at } of found) {
    members.forEach((member) => out[position.get(member)!] = null);
    out[at] = op;
  }
  return out.filter((op) => op !== null);
}

/** Adds a joined operation to `found` unless a member is taken or there is no place for it. */
export function take(reads: Reads, found: Placed[], joined: Joined | undefined): void {
  if (!joined || found.some(({ members }) => members.some((op) => joined.members.includes(op)))) return;
  const at = reads.spot(joined.members);
  if (at !== undefined) found.push({ ...joined, at });
}
