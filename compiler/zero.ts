/** Sharing optimizer states out over data parallelism (ZeRO stage 1; Rajbhandari et al. 2020). */
import { BYTES, ownRows } from "../ir/op.ts";
import { type LocalParameter, type Range, type Shard, trainedOf } from "./layout.ts";
import { parameterBytes } from "./models/parameters.ts";
import { lineOf, optimizerNumbers, storageOf } from "./models/storage.ts";

/** A rank's place in data parallelism, and whether optimizer states are shared out over it. */
export interface Share {
  readonly dp: number;
  readonly rank: number;
  readonly zero: 0 | 1;
}
/** On one device, and on every rank that keeps all optimizer states of its shard. */
export const ALL: Share = { dp: 1, rank: 0, zero: 0 };

/** Elements of all parameters that are trained, with what lies between them: as many in `params` as in `grads`. */
export const trainedElements = (shard: Shard): number =>
  parameterBytes(trainedOf(shard)) / BYTES[storageOf(shard.config).weights];

/** Elements of `params` (and of `grads`) that this rank updates: whole cache lines of parameters. */
export function ownElements(shard: Shard, { dp, rank, zero }: Share): Range {
  const all = trainedElements(shard), row = lineOf(shard.config);
  if (!zero) return { from: 0, to: all };
  const [from, to] = ownRows(all / row, rank, dp);
  return { from: from * row, to: to * row };
}

const NUMBER = BYTES.f32;

/**
 * Bytes of the `moments` segment: the first moments of what the rank updates, then the second ones, then the master copies
 * where parameters are not f32 themselves.
 */
export function momentBytes(shard: Shard, share: Share): number {
  const { from, to } = ownElements(shard, share);
  return optimizerNumbers(shard.config) * NUMBER * (to - from);
}

/** Elements from … to of a parameter as it is stored, which one rank updates. */
export interface OwnPiece extends Range {
  readonly parameter: LocalParameter;
  /** Bytes in the `moments` segment where their first and second moments begin. */
  readonly m: number;
  readonly v: number;
  /** And their master copies; null where the parameters themselves are updated. */
  readonly master: number | null;
}

/** What a rank updates, in the order of its segments. The pieces of all ranks of a data-parallel group are every parameter once. */
export function ownPieces(shard: Shard, share: Share): readonly OwnPiece[] {
  const own = ownElements(shard, share), pieces: OwnPiece[] = [], all = NUMBER * (own.to - own.from);
  for (const p of trainedOf(shard)) {
    const begin = p.offset / BYTES[p.dtype];
    const from = Math.max(own.from, begin), to = Math.min(own.to, begin + p.elements);
    if (from >= to) continue;
    const m = NUMBER * (from - own.from), master = p.dtype === "f32" ? null : m + 2 * all;
    pieces.push({ parameter: p, from: from - begin, to: to - begin, m, v: m + all, master });
  }
  return pieces;
}
