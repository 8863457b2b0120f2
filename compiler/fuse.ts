/** Merges pointwise operations over the same elements into one operation with registers. Constants become instructions. */
import { type Op, POINTWISE, type Value } from "../ir/op.ts";
import { sameDim, showDim, size } from "./shape.ts";

/** Most inputs and instructions of one operation; the kernel keeps a block of every register in cache. */
export const MAX_REGISTERS = 64;

interface Group {
  readonly members: Op[];
  readonly made: Set<Value>;
  registers: number;
}

/**
 * An operation joins the latest group over as many elements when everything it reads existed before that group or is made
 * in it: moving an operation up to its inputs is always sound. An operation that works in place stays alone, because a
 * chain of instructions must not overwrite what it reads.
 */
export function fuse(ops: readonly Op[]): Op[] {
  const constants = new Map<Value, number>(),
    madeAt = new Map<Value, number>(),
    latest = new Map<string, number>();
  const slots: (Op | Group)[] = [];
  for (const op of ops) {
    if (op.kind === "fill") constants.set(op.outs[0]!, op.attrs[1] as number);
    const at = op.kind === "pointwise" ? join(op) : slots.push(op) - 1;
    op.outs.forEach((v) => madeAt.set(v, at));
  }
  function join(op: Op): number {
    const extent = showDim(op.attrs[0]!), at = latest.get(extent), alone = worksInPlace(op);
    const group = at === undefined ? undefined : slots[at] as Group;
    const ready = (v: Value) => constants.has(v) || group!.made.has(v) || (madeAt.get(v) ?? -1) < at!;
    const cost = 1 + 2 * op.ins.length;
    if (group && !alone && group.registers + cost <= MAX_REGISTERS && op.ins.every(ready)) {
      group.members.push(op);
      group.made.add(op.outs[0]!);
      group.registers += cost;
      return at!;
    }
    slots.push({ members: [op], made: new Set(op.outs), registers: cost });
    if (!alone) latest.set(extent, slots.length - 1);
    return slots.length - 1;
  }
  const readers = countReaders(ops);
  return slots.map((slot) => "members" in slot ? merge(slot, constants, readers) : slot);
}

const worksInPlace = (op: Op): boolean => {
  const place = op.outs[0]!.place;
  return place !== undefined &&
    op.ins.some((v) => v.place?.segment === place.segment && v.place.offset === place.offset);
};

function countReaders(ops: readonly Op[]): Map<Value, number> {
  const readers = new Map<Value, number>();
  for (const op of ops) for (const v of op.ins) readers.set(v, (readers.get(v) ?? 0) + 1);
  return readers;
}

/** One operation for a group. Values that leave it are outputs, the others live in registers only. */
function merge(group: Group, constants: ReadonlyMap<Value, number>, readers: ReadonlyMap<Value, number>): Op {
  const members = group.members, n = members[0]!.attrs[0]!, inside = countReaders(members);
  const ins = [...new Set(members.flatMap((op) => op.ins))].filter((v) =>
    !group.made.has(v) && !constants.has(v)
  );
  const register = new Map<Value, number>(ins.map((v, i) => [v, i]));
  const known = new Map<string, number>(), code: number[] = [];
  /** The register of an instruction; the same instruction twice is computed once. */
  const instruction = (...words: readonly [number, number, number, number]): number => {
    // Object.is semantics: −0 and 0 are different constants.
    const key = words.map((w) => Object.is(w, -0) ? "-0" : w).join();
    if (!known.has(key)) {
      known.set(key, ins.length + code.length / 4);
      code.push(...words);
    }
    return known.get(key)!;
  };
  const registerOf = (v: Value) =>
    register.get(v) ?? instruction(POINTWISE.constant, constants.get(v)!, 0, 0);
  for (const op of members) {
    const [a = 0, b = 0, c = 0] = op.ins.map(registerOf);
    register.set(op.outs[0]!, instruction(op.attrs[4 + op.ins.length] as number, a, b, c));
  }
  const outs = [...group.made].filter((v) => v.place || (readers.get(v) ?? 0) > (inside.get(v) ?? 0));
  const strides = ins.map((v) => sameDim(size(v.shape), n) ? 1 : 0);
  const attrs = [
    n,
    ins.length,
    code.length / 4,
    outs.length,
    ...strides,
    ...code,
    ...outs.map((v) => register.get(v)!),
  ];
  return { kind: "pointwise", ins, outs, attrs };
}
