/** Lifetimes, in-place reuse and arena offsets. The result is the memory use of a program, to the byte. */
import type { Maxima, Op, Place, Value } from "../ir/op.ts";
import { reusable } from "./operands.ts";
import { placeInGaps, type Placement } from "./placement.ts";
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
  const live = liveAt(lifetimes, ops.length);
  const offsets = guard === undefined ? bestOffsets(lifetimes, live) : fencedOffsets(lifetimes, guard);
  const places = new Map<Value, Place>(), buffers: Buffer[] = [];
  let arenaBytes = 0;
  lifetimes.forEach(({ values, ...buffer }, i) => {
    const offset = offsets[i]!;
    buffers.push({ ...buffer, offset });
    arenaBytes = Math.max(arenaBytes, offset + buffer.bytes + (guard ?? 0));
    for (const v of values) places.set(v, { segment: "arena", offset });
  });
  return { places, buffers, arenaBytes, liveBytes: most(live) };
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

/** A placement in so many times the bytes that are alive at once is looked for no further. */
const ENOUGH = 1.01;
/** Rounds in which the highest buffer is placed before all others. */
const ROUNDS = 8;

/**
 * Lowest-gap placement in several orders, until one is good enough; the best is kept.
 *
 * @param live bytes that are alive at every operation
 */
function bestOffsets(buffers: readonly Lifetime[], live: readonly number[]): readonly number[] {
  const crowd = buffers.map((b) => most(live.slice(b.start, b.end + 1)));
  const orders: ((x: Lifetime, y: Lifetime, i: number, j: number) => number)[] = [
    (x, y) => y.bytes - x.bytes || x.start - y.start,
    (x, y) => x.start - y.start || y.bytes - x.bytes,
    (x, y) => y.end - x.end || y.bytes - x.bytes,
    (x, y) => y.bytes * (y.end - y.start + 1) - x.bytes * (x.end - x.start + 1) || x.start - y.start,
    // What is alive when most is comes first: the others have room to spare.
    (x, y, i, j) => crowd[j]! - crowd[i]! || x.start - y.start || y.bytes - x.bytes,
  ];
  const bytes = buffers.map((b) => b.bytes), indexes = buffers.map((_, i) => i), enough = ENOUGH * most(live);
  const together = (i: number, j: number) =>
    buffers[i]!.start <= buffers[j]!.end && buffers[j]!.start <= buffers[i]!.end;
  let best: Placement = { offsets: [], top: Infinity }, order: readonly number[] = indexes;
  const place = (now: readonly number[]): Placement => {
    const found = placeInGaps(bytes, now, together);
    if (found.top < best.top) [best, order] = [found, now];
    return found;
  };
  for (const by of orders) {
    place(indexes.toSorted((i, j) => by(buffers[i]!, buffers[j]!, i, j) || i - j));
    if (best.top <= enough) return best.offsets;
  }
  let last = best, now = order;
  for (let round = 0; round < ROUNDS && best.top > enough; round++) {
    const highest = now.find((i) => last.offsets[i]! + bytes[i]! === last.top)!;
    now = [highest, ...now.filter((i) => i !== highest)];
    last = place(now);
  }
  return best.offsets;
}

const most = (of: readonly number[]): number => of.reduce((m, n) => Math.max(m, n), 0);

function fencedOffsets(buffers: readonly Lifetime[], guard: number): number[] {
  let top = 0;
  return buffers.map((b) => {
    const offset = top + guard;
    top = offset + b.bytes + guard;
    return offset;
  });
}

/** Bytes that are alive at every operation. */
function liveAt(buffers: readonly Lifetime[], steps: number): number[] {
  const change = new Array<number>(steps + 1).fill(0);
  for (const b of buffers) {
    change[b.start]! += b.bytes;
    change[b.end + 1]! -= b.bytes;
  }
  let live = 0;
  return change.map((n) => live += n);
}
