/** Seconds of the operations of a compiled program on a kind of device: the only place where cost comes from. */
import { partsOf } from "../compiler/parts.ts";
import { bytesTouched, elementsOf } from "../compiler/traffic.ts";
import { AXES, type Axis, type Dim, extent, type Maxima, type OpKind } from "../ir/op.ts";
import type { Work } from "../ir/program.ts";
import type { CollectiveRate, Profile } from "./profile.ts";
import { lookUp, type Table } from "../ir/table.ts";

/** Live dims of a submission, and tokens of context that decoded rows have on average. */
export interface Live extends Maxima {
  readonly context: number;
}

/** Ranks of a group and how they are joined. */
export interface GroupLink {
  readonly ranks: number;
  /** Of the group, in each of its nodes. */
  readonly perNode: number;
  readonly microseconds: number;
  /** 10⁹ bytes a second into and out of one of the ranks. */
  readonly GBps: number;
}

/** The groups of a call's collectives. */
export type Groups = Readonly<Record<Axis, GroupLink>>;

export const ALONE: GroupLink = { ranks: 1, perNode: 1, microseconds: 0, GBps: Infinity };

/** Columns of a head that attention tables were measured with. */
const HEAD = 128;
/** Equal operations, and how many there are. */
export interface Repeated {
  readonly work: Work;
  readonly times: number;
}

/** The operations of a program, equal ones together: a model's layers repeat them. */
export function distinct(all: readonly Work[]): Repeated[] {
  const found = new Map<string, { readonly work: Work; times: number }>();
  for (const work of all) {
    let key: string = work.kind;
    for (const list of [work.attrs, work.elements, work.widths]) {
      for (const a of list) key += typeof a === "number" ? ` ${a}` : ` ${a.times}${a.symbol}`;
    }
    const same = found.get(key);
    if (same) same.times++;
    else found.set(key, { work, times: 1 });
  }
  return [...found.values()];
}

/** Seconds of a whole program, as its only user of the device. */
export function programSeconds(program: readonly Repeated[], live: Live, groups: Groups, p: Profile): number {
  let seconds = p.submitMicroseconds * 1e-6;
  for (const { work, times } of program) seconds += times * workSeconds(work, live, groups, p);
  return seconds;
}

/** Seconds of one operation. */
export function workSeconds(work: Work, live: Live, groups: Groups, p: Profile): number {
  const at = (i: number) => extent(work.attrs[i]!, live), launch = p.launchMicroseconds * 1e-6;
  const product = (kind: OpKind, m: number, n: number, k: number) =>
    m * n * k === 0 ? 0 : lookUp(p.tables[kind] ?? p.tables.matmul, [m, n, k]);
  /** Of logits that are kept, where attribute `step` is not 0: written, or read. */
  const logits = (step: number) => traffic(4 * at(0) * at(step), p);
  switch (work.kind) {
    case "matmul":
      return Math.max(launch, product("matmul", at(0), at(1), at(2)));
    // One product with all their outputs: rows are read once, and there is one launch.
    case "matmul3":
    case "matmul2":
    case "gatedMatmul": {
      const [products, rest] = [true, false].map((of) =>
        partsOf(work).filter(({ kind }) => (kind === "matmul") === of)
      ) as [Work[], Work[]];
      const outputs = products.reduce((n, { attrs }) => n + extent(attrs[1]!, live), 0);
      const seconds = product("matmul", at(0), outputs, extent(products[0]!.attrs[2]!, live));
      return Math.max(launch, rest.reduce((sum, part) => sum + elementwise(part, live, p), seconds));
    }
    case "matmulDx":
      return Math.max(launch, product("matmulDx", at(0), at(2), at(1)));
    case "matmulDw":
      return Math.max(launch, product("matmulDw", at(1), at(2), at(0)));
    case "linearLogprob":
      return Math.max(
        launch,
        (ownOr(p.tables.linearLogprob, [at(0), at(2), at(1)]) ??
          product("matmul", at(0), at(2), at(1))) + logits(4),
      );
    case "shardLogprob":
      return product("matmul", at(0), at(2), at(1)) + logits(7) +
        collectiveSeconds("allReduce", 3 * at(0) * work.widths.at(-1)!, groups[AXES[at(6)]!], p);
    case "linearLogprobGrad": {
      const all = ownOr(p.tables.linearLogprobGrad, [at(0), at(2), at(1)]);
      const again = product("matmul", at(0), at(2), at(1)),
        rest = product("matmulDx", at(0), at(1), at(2)) + product("matmulDw", at(2), at(1), at(0));
      // One product of three where the logits were kept.
      return Math.max(
        launch,
        at(7) === 0 ? all ?? again + rest : (all === undefined ? rest : all * 2 / 3) + logits(7),
      );
    }
    case "linearLogprobDx": {
      const rest = product("matmulDx", at(0), at(1), at(2));
      return Math.max(launch, rest + (at(6) === 0 ? product("matmul", at(0), at(2), at(1)) : logits(6)));
    }
    case "attention":
    case "attentionGrad":
      return Math.max(launch, attentionSeconds(work.kind, at, p));
    case "pagedAttention": {
      const [rows, , kv, width, window] = [at(0), at(1), at(2), at(3), at(4)];
      const context = window > 0 ? Math.min(window, live.context) : live.context;
      const measured = p.tables.pagedAttention;
      if (!measured) return Math.max(launch, traffic(2 * rows * kv * width * context * work.widths[1]!, p));
      return Math.max(launch, lookUp(measured, [rows * kv, context]) * width / HEAD);
    }
    case "allReduce":
      return collectiveSeconds("allReduce", bytesSent(work, live), groups[AXES[at(1)]!], p);
    case "allGatherRows":
    case "reduceScatterRows":
      return collectiveSeconds(work.kind, bytesSent(work, live), groups[AXES[at(2)]!], p);
    case "reduceOwnRows":
      return collectiveSeconds("reduceScatterRows", bytesSent(work, live), groups[AXES[at(4)]!], p);
    case "allGatherColumns":
      return collectiveSeconds("allGatherRows", at(0) * at(1) * work.widths[0]!, groups[AXES[at(4)]!], p);
    case "sumDoubles":
      return collectiveSeconds("allReduce", 8 * at(0), groups[AXES[at(1)]!], p);
    default:
      return Math.max(launch, elementwise(work, live, p));
  }
}

const ownOr = (table: Table | undefined, at: readonly number[]): number | undefined =>
  table && (at.every((x) => x > 0) ? lookUp(table, at) : 0);

/** Packed sequences of equal lengths; a window leaves fewer pairs of query and key. */
function attentionSeconds(
  kind: "attention" | "attentionGrad",
  at: (i: number) => number,
  p: Profile,
): number {
  const [tokens, sequences, heads, width, window] = [at(0), at(1), at(2), at(4), at(5)];
  if (tokens === 0 || sequences === 0) return 0;
  const length = tokens / sequences, own = p.tables[kind] ?? p.tables.attention;
  const seen = window > 0 && window < length ? window * (2 * length - window) / length ** 2 : 1;
  // Two products forward and five backward, see `compiler/flops.ts`.
  const passes = kind === "attentionGrad" && !p.tables.attentionGrad ? 2.5 : 1;
  if (!own) {
    const pairs = tokens * length / 2;
    return passes * lookUp(p.tables.matmul, [pairs / width, width, width]) * 2 * heads;
  }
  return passes * seen * lookUp(own, [length, sequences * heads]) * width / HEAD;
}

const size = (d: Dim, live: Maxima): number => d.times * live[d.symbol];
const traffic = (bytes: number, p: Profile): number => bytes / (p.memoryGBps * 1e9);

function elementwise(work: Work, live: Live, p: Profile): number {
  const elements = elementsOf(work, live), own = p.tables[work.kind];
  if (elements === 0) return 0;
  if (own) return lookUp(own, [elements]);
  // Measured before there was this operation: what it stands for took longer, but it was measured.
  const parts = partsOf(work);
  if (parts.some((part) => p.tables[part.kind])) {
    const launch = p.launchMicroseconds * 1e-6;
    return parts.reduce((n, part) => n + Math.max(launch, elementwise(part, live, p)), 0);
  }
  return traffic(bytesTouched(work, live), p);
}

/** Bytes of the whole that a collective is about. */
const bytesSent = ({ elements, widths }: Work, live: Live): number =>
  Math.max(...elements.map((d, i) => size(d, live) * widths[i]!));

/**
 * Seconds of a ring: every rank sends (n − 1)/n of the bytes, twice for a sum that all ranks get (Thakur et al. 2005). In a node
 * that was measured, by its own figures; across nodes every node's ranks share out what leaves it.
 */
export function collectiveSeconds(
  kind: CollectiveRate["kind"],
  bytes: number,
  group: GroupLink,
  p: Profile,
): number {
  const { ranks, perNode } = group;
  if (ranks === 1 || bytes === 0) return 0;
  const share = (kind === "allReduce" ? 2 : 1) * (ranks - 1) / ranks, measured = rateOf(kind, group, p);
  if (perNode === ranks && measured) {
    return measured.microseconds * 1e-6 + share * bytes / (measured.GBps * 1e9);
  }
  const rate = perNode > 1 && measured ? Math.min(measured.GBps, perNode * group.GBps) : group.GBps * perNode;
  const hops = Math.ceil(Math.log2(ranks)) * (kind === "allReduce" ? 2 : 1);
  return hops * group.microseconds * 1e-6 + share * bytes / (rate * 1e9);
}

/** Measured rates of as many ranks, or the nearest number of them. */
function rateOf(
  kind: CollectiveRate["kind"],
  { perNode }: GroupLink,
  p: Profile,
): CollectiveRate | undefined {
  let best: CollectiveRate | undefined;
  for (const r of p.collectives) {
    if (r.kind !== kind) continue;
    if (!best || Math.abs(Math.log(r.ranks / perNode)) < Math.abs(Math.log(best.ranks / perNode))) best = r;
  }
  return best;
}
