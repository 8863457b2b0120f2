/** Lifetimes, in-place reuse and arena offsets. The result is the memory use of a program, to the byte. */
import type { Maxima, Op, Place, Value } from "../ir/op.ts";
import { reusable } from "./operands.ts";
import { placeBesideLasting, placeInGaps } from "./placement.ts";
import { reservedBytes } from "./shape.ts";

export interface BufferPlan {
  readonly places: ReadonlyMap<Value, Place>;
  readonly buffers: readonly Buffer[];
  readonly arenaBytes: number;
  /** The most bytes that are alive at once: no placement can need less. */
  readonly liveBytes: number;
}
/** Memory of one value, or of several that follow one another in place. Alive from operation `start` to `end`. */
export interface Buffer {
  readonly name: string;
  readonly bytes: number;
  readonly offset: number;
  readonly start: number;
  readonly end: number;
}
type Lifetime = Omit<Buffer, "offset"> & { end: number; readonly values: Value[] };

/**
 * @param guard when given, every buffer has its own memory with this many bytes before and after it, which no correct
 * program ever writes: for tests
 */
export function planBuffers(ops: readonly Op[], maxima: Maxima, guard?: number): BufferPlan {
  const lifetimes = findLifetimes(ops, maxima);
  const liveBytes = mostLive(lifetimes, ops.length);
  const offsets = guard === undefined ? bestOffsets(lifetimes, liveBytes) : fencedOffsets(lifetimes, guard);
  const places = new Map<Value, Place>(), buffers: Buffer[] = [];
  let arenaBytes = 0;
  lifetimes.forEach(({ values, ...buffer }, i) => {
    const offset = offsets[i]!;
    buffers.push({ ...buffer, offset });
    arenaBytes = Math.max(arenaBytes, offset + buffer.bytes + (guard ?? 0));
    for (const v of values) places.set(v, { segment: "arena", offset });
  });
  return { places, buffers, arenaBytes, liveBytes };
}

function findLifetimes(ops: readonly Op[], maxima: Maxima): Lifetime[] {
  const lastUse = new Map<Value, number>(), of = new Map<Value, Lifetime>(), all: Lifetime[] = [];
  ops.forEach((op, i) => [...op.ins, ...op.outs].forEach((v) => lastUse.set(v, i)));
  ops.forEach((op, i) => {
    for (const [o, v] of op.outs.entries()) {
      if (v.place) continue;
      const bytes = reservedBytes(v, maxima), end = lastUse.get(v)!;
      const free = (b: Lifetime | undefined) =>
        b !== undefined && b.bytes === bytes && b.end === i && b.start < i &&
        !op.outs.some((other) => of.get(other) === b) &&
        (op.kind === "pointwise" || op.ins.filter((x) => of.get(x) === b).length === 1);
      const reuse = reusable(op).filter(([out]) => out === o).map(([, input]) => of.get(op.ins[input]!)).find(
        free,
      );
      const buffer = reuse ?? { name: v.name, bytes, start: i, end, values: [] };
      if (!reuse) all.push(buffer);
      buffer.values.push(v);
      buffer.end = end;
      of.set(v, buffer);
    }
  });
  return all;
}

/** Lowest-gap placement in several orders, and one beside what lasts; the best is kept. */
function bestOffsets(buffers: readonly Lifetime[], live: number): readonly number[] {
  const orders: ((x: Lifetime, y: Lifetime) => number)[] = [
    (x, y) => y.bytes - x.bytes || x.start - y.start,
    (x, y) => x.start - y.start || y.bytes - x.bytes,
    (x, y) => y.end - x.end || y.bytes - x.bytes,
    (x, y) => y.bytes * (y.end - y.start + 1) - x.bytes * (x.end - x.start + 1) || x.start - y.start,
  ];
  let best: readonly number[] = [], least = Infinity;
  const bytes = buffers.map((b) => b.bytes), indexes = buffers.map((_, i) => i);
  const together = (i: number, j: number) =>
    buffers[i]!.start <= buffers[j]!.end && buffers[j]!.start <= buffers[i]!.end;
  for (const order of orders) {
    const sorted = indexes.toSorted((i, j) => order(buffers[i]!, buffers[j]!) || i - j);
    const { offsets, top } = placeInGaps(bytes, sorted, together);
    if (top < least) [best, least] = [offsets, top];
  }
  const { offsets, top } = placeBesideLasting(bytes, buffers, live);
  return top < least ? offsets : best;
}

function fencedOffsets(buffers: readonly Lifetime[], guard: number): number[] {
  let top = 0;
  return buffers.map((b) => {
    const offset = top + guard;
    top = offset + b.bytes + guard;
    return offset;
  });
}

function mostLive(buffers: readonly Lifetime[], steps: number): number {
  const change = new Array<number>(steps + 1).fill(0);
  for (const b of buffers) {
    change[b.start]! += b.bytes;
    change[b.end + 1]! -= b.bytes;
  }
  let live = 0, most = 0;
  for (const bytes of change) most = Math.max(most, live += bytes);
  return most;
}
