/** Many small copies → few large ones. */
import { joined, type Run, strided } from "./pieces.ts";

/** Runs from the sender's params segment into the receiver's. */
export interface Move extends Run {
  readonly from: number;
  readonly to: number;
  /** The sender's memory: what it held before ("source"), or what it received itself ("target"), to pass on in its own node. */
  readonly of: "source" | "target";
  /** Where the move begins; it may go on through the parameters behind. */
  readonly parameter: string;
}

/** A move, with its parameter's name without the number of the layer. */
export interface Copy extends Move {
  readonly stem: string;
}

/**
 * Joins copies between the same memories that lie next to each other on both sides, through parameters and layers; then what
 * comes again in every layer at one distance.
 */
export function coalesce(copies: readonly Copy[]): Move[] {
  const pairs = [...Map.groupBy(copies, ({ of, from, to }) => `${of} ${from} ${to}`).values()];
  const order = (a: Copy, b: Copy) => a.of < b.of ? -1 : a.of > b.of ? 1 : a.from - b.from || a.to - b.to;
  return pairs.sort(([a], [b]) => order(a!, b!)).flatMap((pair) => {
    const sorted = pair.sort((a, b) => a.target - b.target);
    return repeated(neighbours(neighbours(sorted, wider), longer)).map(({ stem: _, ...move }) => move);
  });
}

/** Replaces two copies in a row by what `join` makes of them, as long as it makes something. */
function neighbours(copies: readonly Copy[], join: (a: Copy, b: Copy) => Copy | null): Copy[] {
  const out: Copy[] = [];
  for (const next of copies) {
    const last = out.at(-1), both = last && join(last, next);
    if (both) out[out.length - 1] = both;
    else out.push(next);
  }
  return out;
}

const touches = (a: Run, b: Run): boolean =>
  a.source + a.bytes === b.source && a.target + a.bytes === b.target;

/** Columns, or lanes, beside each other: what came from two senders and goes on together. */
function wider(a: Copy, b: Copy): Copy | null {
  const alike = a.count === b.count && a.sourceStride === b.sourceStride && a.targetStride === b.targetStride;
  return a.count > 1 && alike && touches(a, b)
    ? { ...a, ...strided({ ...a, bytes: a.bytes + b.bytes }) }
    : null;
}

function longer(a: Copy, b: Copy): Copy | null {
  if (a.count > 1 || b.count > 1 || !touches(a, b)) return null;
  const bytes = a.bytes + b.bytes;
  return { ...a, bytes, sourceStride: bytes, targetStride: bytes };
}

function repeated(copies: readonly Copy[]): Copy[] {
  const out: Copy[] = [], latest = new Map<string, number>();
  for (const next of copies) {
    const key = `${next.stem} ${next.bytes}`,
      i = latest.get(key),
      both = i !== undefined && joined(out[i]!, next);
    if (both) out[i] = both;
    else latest.set(key, out.push(next) - 1);
  }
  return out;
}
