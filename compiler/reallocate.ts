/** Parameter reallocation: the copies that turn one layout of a model into another (Mei et al. 2024, "parameter reallocation"). */
import { BYTES } from "../ir/op.ts";
import type { Cluster } from "../ir/plan.ts";
import { balance, type Share } from "./balance.ts";
import { coalesce, type Copy, type Move } from "./coalesce.ts";
import { type Demand, demandsOf, type Holder, isSame, pieceOf } from "./demand.ts";
import type { Shard } from "./layout.ts";
import { storageOf } from "./models/storage.ts";
import { type Box, runsBetween } from "./pieces.ts";

export type { Holder, Move };

/** What a reallocation costs. */
export interface ReallocationBytes {
  /** Devices whose piece is the same in both layouts: they keep their memory, and nothing is copied. */
  readonly shared: readonly number[];
  /** Bytes that cross from one device to another, and the least that any way of doing it must move. */
  readonly bytes: number;
  readonly minimum: number;
  /** Bytes copied inside a device: the piece is there, and lies otherwise. */
  readonly localBytes: number;
  /** Bytes by device, for those that send or receive any. */
  readonly sent: ReadonlyMap<number, number>;
  readonly received: ReadonlyMap<number, number>;
  /** Of these, what goes from one node to another. */
  readonly sentAcross: ReadonlyMap<number, number>;
  readonly receivedAcross: ReadonlyMap<number, number>;
}

/** A reallocation, ready to be carried out. */
export interface Reallocation extends ReallocationBytes {
  /** Those of `of: "source"` first. */
  readonly moves: readonly Move[];
}

/** Devices of one node are nearer to each other than to those of another one. */
type Nodes = Pick<Cluster, "devicesPerNode">;

/** Bytes from … to of a demand, from one device to another. */
interface Transfer extends Pick<Move, "from" | "to" | "of"> {
  readonly demand: Demand;
  readonly begin: number;
  readonly end: number;
}

/** The moves that bring every device of `to` what it lacks, from the nearest device of `from` that holds it. */
export function reallocate(from: readonly Holder[], to: readonly Holder[], cluster: Nodes): Reallocation {
  const plan = planOf(from, to, cluster), copies: Copy[] = [];
  for (const transfer of plan.transfers) {
    const pair = { from: transfer.from, to: transfer.to, of: transfer.of };
    const source = plan[pair.of].get(pair.from)!, target = plan.target.get(pair.to)!;
    for (const { stem, layer, box } of boxesOf(transfer)) {
      const at = pieceOf(source, stem, layer)!, into = pieceOf(target, stem, layer)!;
      for (const run of runsBetween(at, into, box)) {
        copies.push({ ...pair, parameter: into.name, ...run, stem });
      }
    }
  }
  return { moves: coalesce(copies), ...bytesOf(plan, cluster) };
}

/** What {@link reallocate} gives but the moves: cheap enough to compare thousands of layouts. */
export const reallocationBytes = (
  from: readonly Holder[],
  to: readonly Holder[],
  cluster: Nodes,
): ReallocationBytes => bytesOf(planOf(from, to, cluster), cluster);

interface Plan {
  /** Shards by device, before and after. */
  readonly source: ReadonlyMap<number, Shard>;
  readonly target: ReadonlyMap<number, Shard>;
  readonly shared: readonly number[];
  readonly minimum: number;
  readonly transfers: readonly Transfer[];
  /** Bytes of an element before, for one after: what an average follows may be half as wide as the average itself. */
  readonly narrow: number;
}

function planOf(from: readonly Holder[], to: readonly Holder[], { devicesPerNode }: Nodes): Plan {
  const source = shardsByDevice(from), target = shardsByDevice(to);
  const stays = ({ device, shard }: Holder) => source.has(device) && isSame(source.get(device)!, shard);
  const shared = new Set(to.filter(stays).map((h) => h.device));
  const demands = demandsOf(from, to.filter((h) => !shared.has(h.device)), devicesPerNode);
  const local = demands.filter((d) => d.local), crossing = demands.filter((d) => !d.local);
  const batches = batchesOf(crossing.filter((d) => d.receivers.length > 1));
  const shares = balance([
    ...crossing.map((demand) => ({ demand, devices: demand.senders, weight: 1 })),
    ...batches.map(({ all }) => ({ demand: all, devices: all.receivers, weight: all.receivers.length - 1 })),
  ]);
  const entries = new Map(
    batches.flatMap((batch, i) =>
      batch.demands.map((d) => [d, entriesOf(d, batch, shares[crossing.length + i]!)])
    ),
  );
  const whole = (d: Demand): Share[] => [{ device: d.receivers[0]!, from: 0, to: d.bytes }];
  const transfers = [
    ...local.flatMap((d) => transfersOf(d, whole(d), whole(d))),
    ...crossing.flatMap((d, i) => transfersOf(d, shares[i]!, entries.get(d) ?? whole(d))),
  ];
  const widths = [from, to].map(([first]) => BYTES[storageOf(first!.shard.config).weights]),
    narrow = widths[0]! / widths[1]!;
  const minimum = narrow * crossing.reduce((n, d) => n + d.bytes * d.receivers.length, 0);
  return { source, target, shared: [...shared], minimum, transfers, narrow };
}

/** Demands for the same layers of the same devices; all: as if they were one. */
interface Batch {
  readonly demands: readonly Demand[];
  readonly all: Demand;
}

/** What several devices of a node need is divided by layers, whoever sends it: what one passes on lies in few places. */
const batchesOf = (demands: readonly Demand[]): Batch[] =>
  [...Map.groupBy(demands, (d) => `${d.stack} ${d.receivers}`).values()].map((demands) => {
    const parts = demands.flatMap((d) => d.parts),
      sum = (key: "layerBytes" | "bytes") => demands.reduce((n, d) => n + d[key], 0);
    return { demands, all: { ...demands[0]!, parts, layerBytes: sum("layerBytes"), bytes: sum("bytes") } };
  });

/** A demand's own part of the stretches that its batch was divided into. */
function entriesOf(demand: Demand, { demands, all }: Batch, shares: readonly Share[]): Share[] {
  const before = demands.slice(0, demands.indexOf(demand)).reduce((n, d) => n + d.layerBytes, 0);
  const own = (at: number) => {
    const layer = Math.floor(at / all.layerBytes), rest = at - layer * all.layerBytes - before;
    return layer * demand.layerBytes + Math.min(Math.max(rest, 0), demand.layerBytes);
  };
  return shares.map(({ device, from, to }) => ({ device, from: own(from), to: own(to) }))
    .filter((share) => share.from < share.to);
}

/** `entries`: the receivers that get each stretch from a sender, to pass it on to the others. */
function transfersOf(demand: Demand, senders: readonly Share[], entries: readonly Share[]): Transfer[] {
  return entries.flatMap(({ device, from, to }) => {
    const entering = senders.map((s): Transfer => {
      const begin = Math.max(from, s.from), end = Math.min(to, s.to);
      return { from: s.device, to: device, of: "source", demand, begin, end };
    });
    const others = demand.receivers.filter((r) => r !== device);
    const passed = others.map((other): Transfer => {
      return { from: device, to: other, of: "target", demand, begin: from, end: to };
    });
    return [...entering.filter((t) => t.begin < t.end), ...passed];
  });
}

function bytesOf({ shared, minimum, transfers, narrow }: Plan, { devicesPerNode }: Nodes): ReallocationBytes {
  const sent = new Map<number, number>(), received = new Map<number, number>();
  const sentAcross = new Map<number, number>(), receivedAcross = new Map<number, number>();
  const nodeOf = (device: number) => Math.floor(device / devicesPerNode);
  let bytes = 0, localBytes = 0;
  const add = (to: Map<number, number>, device: number, n: number) =>
    to.set(device, (to.get(device) ?? 0) + n);
  for (const { from, to, of, begin, end } of transfers) {
    // What is passed on has the width of its place already.
    const n = (end - begin) * (of === "source" ? narrow : 1);
    if (from === to) {
      localBytes += n;
      continue;
    }
    bytes += n;
    add(sent, from, n);
    add(received, to, n);
    if (nodeOf(from) === nodeOf(to)) continue;
    add(sentAcross, from, n);
    add(receivedAcross, to, n);
  }
  return { shared, bytes, minimum, localBytes, sent, received, sentAcross, receivedAcross };
}

/** The boxes that a stretch of a demand goes through: cuts are between rows. */
function* boxesOf(
  { demand, begin, end }: Transfer,
): Iterable<{ readonly stem: string; readonly layer: number; readonly box: Box }> {
  const { layers, parts, layerBytes } = demand;
  for (let i = Math.floor(begin / layerBytes); i * layerBytes < end; i++) {
    let start = i * layerBytes;
    for (const { stem, rows, columns, rowBytes, bytes } of parts) {
      const from = Math.max(begin, start) - start, to = Math.min(end, start + bytes) - start;
      const box = { rows: { from: rows.from + from / rowBytes, to: rows.from + to / rowBytes }, columns };
      if (from < to) yield { stem, layer: layers.from + i, box };
      start += bytes;
    }
  }
}

function shardsByDevice(holders: readonly Holder[]): Map<number, Shard> {
  const shards = new Map(holders.map((h) => [h.device, h.shard]));
  if (shards.size === holders.length) return shards;
  const [twice] = holders.filter(({ device }, i) => holders.findIndex((h) => h.device === device) < i);
  throw new Error(
    `Cannot reallocate: device ${twice!.device} is in one layout twice, give every rank a device of its own`,
  );
}
