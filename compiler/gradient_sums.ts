/** Sums of gradients over the ranks that have a part of them: in the optimizer's program, or in a backward pass as soon as they are whole. */
import { type Axis, BYTES, type Op, type Value } from "../ir/op.ts";
import type { Builder } from "./builder.ts";
import { axisNumber } from "./collectives.ts";
import { type LocalParameter, type Range, type Shard, trainedOf } from "./layout.ts";
import { lineOf, storageOf } from "./models/storage.ts";
import { tiedGradient } from "./models/transformer.ts";
import { ownElements, type Share, trainedElements } from "./zero.ts";

/** What the sums of a data-parallel group depend on: the same for all of its ranks. */
export type Sharing = Pick<Share, "dp" | "zero">;

/** Elements of all gradients. */
export const wholeOf = (shard: Shard): Range => ({ from: 0, to: trainedElements(shard) });

/** Elements before a parameter in its segment. */
export const firstOf = (p: LocalParameter): number => p.offset / BYTES[p.dtype];

/** Elements of a segment as rows, from … to; it sees what was written there before. */
export function rowsAt(b: Builder, { config }: Shard, segment: "params" | "grads", { from, to }: Range) {
  const { weights, gradients } = storageOf(config), line = lineOf(config);
  const dtype = segment === "params" ? weights : gradients, offset = from * BYTES[dtype];
  const shape = [(to - from) / line, line] as const;
  return { ...b.value(`all ${segment}`, shape, { dtype, place: { segment, offset } }), shape };
}

/** Elements of one operation at most: its attributes have 32 bits, and models of one device have more parameters than that. */
export const MOST_ELEMENTS = 2 ** 31;

/** Sums gradients over an axis where they lie. */
function sumOver(b: Builder, shard: Shard, { from, to }: Range, axis: Axis): void {
  for (let at = from; at < to; at += MOST_ELEMENTS) {
    b.allReduce(rowsAt(b, shard, "grads", { from: at, to: Math.min(to, at + MOST_ELEMENTS) }), axis);
  }
}

/** What is at the place of v once it is written again. */
export const again = (b: Builder, { name, shape, dtype, place }: Value): Value =>
  b.value(name, shape, { dtype, place });

/**
 * Leaves whole gradients in `grads`: all of them, or with ZeRO those that this rank updates.
 *
 * @param bucket neighbours; all trained parameters where none are given
 */
export function sumGradients(
  b: Builder,
  shard: Shard,
  share: Share,
  bucket?: readonly LocalParameter[],
): void {
  const some = bucket ?? trainedOf(shard), tied = tiedGradient(shard);
  if (!some.length) return;
  for (const p of some) {
    if (!tied?.name.endsWith(p.name)) continue;
    const [g, other] = [p, tied].map((x) => again(b, b.placed.get(`grads/${x.name}`)!));
    b.sum(g!, other!, again(b, g!));
  }
  const at = (range: Range) => rowsAt(b, shard, "grads", range);
  for (const { axis, ...range } of partialSums(shard, some)) sumOver(b, shard, range, axis);
  if (share.dp === 1) return;
  const whole = bucket ? { from: firstOf(some[0]!), to: endOf(shard, some.at(-1)!) } : wholeOf(shard);
  if (!share.zero) return sumOver(b, shard, whole, "dp");
  const rows = at(whole), dp = axisNumber("dp");
  if (!bucket) {
    b.emit("reduceScatterRows", [rows], [at(ownElements(shard, share))], [...rows.shape, dp]);
  } else {
    const line = lineOf(shard.config), all = wholeOf(shard).to / line;
    b.emit("reduceOwnRows", [rows], [at(whole)], [...rows.shape, whole.from / line, all, dp]);
  }
}

/** Elements up to the next parameter. */
function endOf({ config }: Shard, p: LocalParameter): number {
  const line = lineOf(config);
  return Math.ceil((firstOf(p) + p.elements) / line) * line;
}

interface PartialSum extends Range {
  readonly axis: Axis;
}

/** Elements that are summed over an axis: neighbours are summed at once. */
function partialSums(shard: Shard, some: readonly LocalParameter[]): readonly PartialSum[] {
  const sums: PartialSum[] = [];
  some.forEach((p, i) => {
    if (!p.sync) return;
    const to = endOf(shard, p), last = sums.at(-1);
    if (some[i - 1]?.sync === p.sync) sums[sums.length - 1] = { ...last!, to };
    else sums.push({ axis: p.sync, from: firstOf(p), to });
  });
  return sums;
}

/** Bytes of gradients that are worth a sum of their own: several times what a message costs in latency. */
export const BUCKET_BYTES = 16 << 20;

/**
 * Parameters whose stage sums them alone, cut into neighbours of `least` bytes at least, in the order in which a backward pass
 * comes to them. Both stages that hold a tied embedding sum it over their axis: that waits for the update.
 */
export function bucketsOf(shard: Shard, least: number): readonly (readonly LocalParameter[])[] {
  const buckets: LocalParameter[][] = [];
  let bytes = least, next: LocalParameter | null = null;
  const trained = trainedOf(shard);
  for (const p of trained.toReversed()) {
    if (p.sync === "tied") continue;
    const apart = next === null || trained.indexOf(p) + 1 !== trained.indexOf(next);
    if (apart || bytes >= least) {
      buckets.push([]);
      bytes = 0;
    }
    buckets.at(-1)!.unshift(p);
    // Of an even share: ranks of a tensor-parallel group, whose pieces may differ, cut alike.
    bytes += p.global.reduce((n, d) => n * d, BYTES[p.gradient] / (p.slice ? shard.tp : 1));
    next = p;
  }
  return buckets;
}

/** What {@link bucketsOf} leaves to the update: runs of neighbours. */
export function restOf(shard: Shard): readonly (readonly LocalParameter[])[] {
  const rest = trainedOf(shard).filter((p) => p.sync === "tied");
  return rest.map((p) => [p]);
}

/**
 * The operations of a backward pass with the sums of every bucket behind the last operation that adds to one of its gradients. The
 * elements, and the order of every sum over ranks, are those of the optimizer's program.
 */
export function withSums(
  b: Builder,
  shard: Shard,
  sharing: Sharing,
  ops: readonly Op[],
  least = BUCKET_BYTES,
): Op[] {
  const tied = tiedGradient(shard), lastAt = new Map<string, number>();
  ops.forEach((op, i) => {
    for (const v of op.outs) if (v.place?.segment === "grads") lastAt.set(v.name, i);
  });
  const behind = new Map<number, Op[]>();
  for (const bucket of bucketsOf(shard, least)) {
    const names = bucket.flatMap((p) => tied?.name.endsWith(p.name) ? [p.name, tied.name] : [p.name]);
    const at = Math.max(...names.map((name) => lastAt.get(name) ?? -1)), begin = b.ops.length;
    // The rank is of no matter: with ZeRO every rank keeps its own rows.
    sumGradients(b, shard, { ...sharing, rank: 0 }, bucket);
    behind.set(at, [...behind.get(at) ?? [], ...b.ops.splice(begin)]);
  }
  return [...behind.get(-1) ?? [], ...ops.flatMap((op, i) => [op, ...behind.get(i) ?? []])];
}

/** Whether an operation works on gradients where they lie and on nothing else. */
export const sumsOnly = (op: Op): boolean =>
  [...op.ins, ...op.outs].every((v) => v.place?.segment === "grads");
