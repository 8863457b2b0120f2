/** Sharing optimizer states out over data parallelism (ZeRO stage 1; Rajbhandari et al. 2020). */
import { ownRows } from "../ir/op.ts";
import { type LocalParameter, type Range, type Shard, trainedOf } from "./layout.ts";
import { parameterBytes } from "./models/parameters.ts";

/** A rank's place in data parallelism, and whether optimizer states are shared out over it. */
export interface Share {
  readonly dp: number;
  readonly rank: number;
  readonly zero: 0 | 1;
}
/** On one device, and on every rank that keeps all optimizer states of its shard. */
export const ALL: Share = { dp: 1, rank: 0, zero: 0 };

/** Floats that are shared out as one row: a cache line, where every parameter starts. */
export const ROW = 16;

/** Bytes of `params` (and of `grads`) that this rank updates. */
export function ownBytes(shard: Shard, { dp, rank, zero }: Share): Range {
  const bytes = parameterBytes(trainedOf(shard)), row = 4 * ROW;
  if (!zero) return { from: 0, to: bytes };
  const [from, to] = ownRows(bytes / row, rank, dp);
  return { from: from * row, to: to * row };
}

/** Bytes of the `moments` segment: the first moments of what the rank updates, then as many bytes of second ones. */
export function momentBytes(shard: Shard, share: Share): number {
  const { from, to } = ownBytes(shard, share);
  return 2 * (to - from);
}

/** Elements from … to of a parameter as it is stored, which one rank updates. */
export interface OwnPiece extends Range {
  readonly parameter: LocalParameter;
  /** Bytes in the `moments` segment where their first and second moments begin. */
  readonly m: number;
  readonly v: number;
}

/** What a rank updates, in the order of its segments. The pieces of all ranks of a data-parallel group are every parameter once. */
export function ownPieces(shard: Shard, share: Share): readonly OwnPiece[] {
  const own = ownBytes(shard, share), pieces: OwnPiece[] = [];
  for (const p of trainedOf(shard)) {
    const from = Math.max(own.from, p.offset), to = Math.min(own.to, p.offset + 4 * p.elements);
    if (from >= to) continue;
    const m = from - own.from;
    pieces.push({
      parameter: p,
      from: (from - p.offset) / 4,
      to: (to - p.offset) / 4,
      m,
      v: m + own.to - own.from,
    });
  }
  return pieces;
}
