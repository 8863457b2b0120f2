/** Merges pointwise operations over the same elements into one operation with registers. Constants become instructions. */
import { type Op, POINTWISE, type Value } from "../ir/op.ts";
import { sameDim, showDim, size } from "./shape.ts";

/** Most inputs and instructions of one operation: the kernel keeps a block of every register in cache. */
export const MAX_REGISTERS = 128;

interface Group {
  /** Position among what is emitted. */
  readonly at: number;
  readonly members: Op[];
  readonly made: Set<Value>;
  readonly read: Set<Value>;
}

/**
 * An operation joins the first group over as many elements before which everything exists that it reads: moving an
 * operation up to its inputs is always sound. An operation that works in place stays alone, because a chain of
 * instructions must not overwrite what it reads.
 */
export function fuse(ops: readonly Op[]): Op[] {
  const constants = new Map<Value, number>(),
    madeAt = new Map<Value, number>(),
    groups = new Map<string, Group[]>();
  const slots: (Op | Group)[] = [];
  const open = (extent: string): Group => {
    const group = { at: slots.length, members: [], made: new Set<Value>(), read: new Set<Value>() };
    slots.push(group);
    groups.set(extent, [...groups.get(extent) ?? [], group]);
    return group;
  };
  // Scalars that depend on inputs only come first, so that they keep no group from the values that they scale.
  open(showDim(1));
  for (const op of ops) {
    if (op.kind === "fill") constants.set(op.outs[0]!, op.attrs[1] as number);
    const at = op.kind !== "pointwise" || worksInPlace(op) ? slots.push(op) - 1 : join(op).at;
    op.outs.forEach((v) => madeAt.set(v, at));
  }
  function join(op: Op): Group {
    const extent = showDim(op.attrs[0]!);
    const fits = (g: Group) =>
      op.ins.every((v) => constants.has(v) || g.made.has(v) || (madeAt.get(v) ?? -1) < g.at) &&
      g.read.size + g.made.size + 1 + op.ins.length <= MAX_REGISTERS;
    const group = groups.get(extent)?.find(fits) ?? open(extent);
    group.members.push(op);
    op.outs.forEach((v) => group.made.add(v));
    op.ins.forEach((v) => group.made.has(v) || group.read.add(v));
    return group;
  }
  const readers = countReaders(ops);
  return slots.flatMap((slot) => {
    if (!("members" in slot)) return [slot];
    return slot.members.length ? [merge(slot, constants, readers)] : [];
  });
}

/** Whether an operation writes to the place of something that it reads. */
export const worksInPlace = (op: Op): boolean => {
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
