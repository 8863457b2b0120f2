/** What the devices of a new layout lack, and which devices of the old one are nearest to give it. */
import { BYTES } from "../ir/op.ts";
import type { LocalParameter, Range, Shard } from "./layout.ts";
import type { Box } from "./pieces.ts";

/** A rank that holds a piece of a model in its own memory. */
export interface Holder {
  /** Number of the device in the cluster. */
  readonly device: number;
  readonly shard: Shard;
}

/** A box of a parameter; in every layer of its demand the same one. */
export interface Part extends Box {
  /** The parameter's name, with a star for the number of the layer. */
  readonly stem: string;
  readonly rowBytes: number;
  readonly bytes: number;
}

/** Parts of some layers, in the order of layers, that the same devices have and the same devices need. */
export interface Demand {
  /** −1 … 0 for what belongs to no layer. */
  readonly layers: Range;
  /** The same number in all demands for these layers. */
  readonly stack: number;
  readonly parts: readonly Part[];
  readonly layerBytes: number;
  readonly bytes: number;
  /** The receiver has it itself, at another place. */
  readonly local: boolean;
  /** Equally near, ascending. */
  readonly senders: readonly number[];
  /** Several are in one node, and no sender is in it. */
  readonly receivers: readonly number[];
}

const OUTSIDE: Range = { from: -1, to: 0 };

/** A shard's parameters by stem, then by layer from the first one. */
interface Catalogue {
  readonly pieces: ReadonlyMap<string, readonly LocalParameter[]>;
  /** Layers that are cut otherwise than the layer before them. */
  readonly changes: readonly number[];
}

const catalogues = new WeakMap<Shard, Catalogue>();

function catalogueOf(shard: Shard): Catalogue {
  const known = catalogues.get(shard);
  if (known) return known;
  const pieces = new Map<string, LocalParameter[]>(), cuts: string[] = [];
  for (const p of shard.parameters) {
    const stem = p.name.replace(`.${p.layer}.`, ".*."), inside = p.layer >= 0;
    const i = inside ? p.layer - shard.layers.from : 0, list = pieces.get(stem) ?? [];
    list[i] = p;
    pieces.set(stem, list);
    if (inside) cuts[i] = `${cuts[i] ?? ""} ${stem} ${p.shape} ${p.slice?.from}`;
  }
  const changes = cuts.flatMap((cut, i) => i > 0 && cut !== cuts[i - 1] ? [shard.layers.from + i] : []);
  const catalogue = { pieces, changes };
  catalogues.set(shard, catalogue);
  return catalogue;
}

/** A rank's piece in a layer; −1 for what belongs to no layer. */
export const pieceOf = (shard: Shard, stem: string, layer: number): LocalParameter | undefined =>
  catalogueOf(shard).pieces.get(stem)?.[layer < 0 ? 0 : layer - shard.layers.from];

/** Whether two ranks hold the same elements at the same places. */
export function isSame(a: Shard, b: Shard): boolean {
  if (a === b) return true;
  return a.parameters.length === b.parameters.length && a.parameters.every((p, i) => {
    const q = b.parameters[i]!;
    return p.name === q.name && p.offset === q.offset && p.layout === q.layout && p.dtype === q.dtype &&
      p.shape.every((n, dim) => n === q.shape[dim]) && p.slice?.dim === q.slice?.dim &&
      p.slice?.from === q.slice?.from && p.slice?.to === q.slice?.to;
  });
}

/** Devices with one shard: replicas for data parallelism. */
interface Group {
  readonly shard: Shard;
  readonly devices: readonly number[];
}

function groupsOf(holders: readonly Holder[]): Group[] {
  const groups = new Map<Shard, number[]>();
  for (const { shard, device } of holders) {
    const devices = groups.get(shard);
    if (devices) devices.push(device);
    else groups.set(shard, [device]);
  }
  return [...groups].map(([shard, devices]) => ({ shard, devices }));
}

/** Layers, or a parameter outside of all, for which the same groups hold something. */
interface Stack {
  readonly layers: Range;
  readonly stems: readonly string[];
  readonly from: readonly Group[];
  readonly to: readonly Group[];
}

/** Layers of a stack are alike: what is said of the first one holds for all, so that depth costs nothing. */
function stacksOf(from: readonly Group[], to: readonly Group[]): Stack[] {
  const all = [...from, ...to], stacks: Stack[] = [];
  const bounds = new Set(
    all.flatMap(({ shard }) => [shard.layers.from, shard.layers.to, ...catalogueOf(shard).changes]),
  );
  const sorted = [...bounds].sort((a, b) => a - b);
  for (let i = 1; i < sorted.length; i++) {
    const layers = { from: sorted[i - 1]!, to: sorted[i]! };
    const holding = (groups: readonly Group[]) =>
      groups.filter((g) => g.shard.layers.from <= layers.from && layers.to <= g.shard.layers.to);
    const receiving = holding(to), [first] = receiving;
    if (!first) continue;
    const stems = [...catalogueOf(first.shard).pieces].flatMap(([stem, [p]]) => p!.layer < 0 ? [] : [stem]);
    stacks.push({ layers, stems, from: holding(from), to: receiving });
  }
  const outside = new Set(
    to.flatMap(({ shard }) => shard.parameters.flatMap((p) => p.layer < 0 ? [p.name] : [])),
  );
  for (const stem of outside) {
    const holding = (groups: readonly Group[]) => groups.filter((g) => pieceOf(g.shard, stem, -1));
    stacks.push({ layers: OUTSIDE, stems: [stem], from: holding(from), to: holding(to) });
  }
  // In the order of memory, so that a stretch of a demand after the other is a stretch of memory where it can be.
  const start = ({ to, stems, layers }: Stack) => pieceOf(to[0]!.shard, stems[0]!, layers.from)!.offset;
  return stacks.sort((a, b) => start(a) - start(b));
}

/** Parts with the same holders and the same receivers. */
interface Cell {
  readonly from: readonly Group[];
  readonly to: readonly Group[];
  readonly parts: Part[];
}

/** Cuts every parameter of a stack wherever one of the two layouts cuts it. */
function cellsOf({ layers, stems, from, to }: Stack): Iterable<Cell> {
  const cells = new Map<string, Cell>();
  for (const stem of stems) {
    const pieces = [...from, ...to].map((g) => pieceOf(g.shard, stem, layers.from));
    const { global, dim, dtype, ranges } = rangesOf(stem, pieces);
    const bounds = [...new Set(ranges.flatMap((r) => [r.from, r.to]))].sort((a, b) => a - b);
    const having = coveredBy(from, ranges, bounds),
      wanting = coveredBy(to, ranges.slice(from.length), bounds);
    for (let i = 1; i < bounds.length; i++) {
      const range = { from: bounds[i - 1]!, to: bounds[i]! }, h = having[i - 1]!, w = wanting[i - 1]!;
      if (!w.length) continue;
      if (!h.length) throw notOneModel(stem);
      const rows = dim === 0 ? range : { from: 0, to: global[0]! };
      const columns = dim === 1 ? range : { from: 0, to: global[1] ?? 1 };
      const rowBytes = BYTES[dtype] * (columns.to - columns.from), bytes = rowBytes * (rows.to - rows.from);
      const part = { stem, rows, columns, rowBytes, bytes };
      const key = [h, w].map((groups) => groups.map((g) => g.devices[0]).join()).join("|");
      const cell = cells.get(key);
      if (cell) cell.parts.push(part);
      else cells.set(key, { from: h, to: w, parts: [part] });
    }
  }
  return cells.values();
}

/** For each interval between two bounds, the groups whose range contains it. */
function coveredBy(groups: readonly Group[], ranges: readonly Range[], bounds: readonly number[]): Group[][] {
  const position = new Map(bounds.map((bound, i) => [bound, i])), out: Group[][] = bounds.map(() => []);
  groups.forEach((group, g) => {
    const { from, to } = ranges[g]!;
    for (let i = position.get(from)!; i < position.get(to)!; i++) out[i]!.push(group);
  });
  return out;
}

/** The dim along which a parameter is cut, every piece's range of it, and the type of what receives: the last ones. */
function rangesOf(stem: string, pieces: readonly (LocalParameter | undefined)[]) {
  const [first] = pieces, dim = pieces.find((p) => p?.slice)?.slice?.dim ?? 0;
  const ranges = pieces.map((p): Range => {
    const alike = p && p.layout === first!.layout && p.global.every((n, i) => n === first!.global[i]);
    if (!alike || (p.slice && p.slice.dim !== dim)) throw notOneModel(stem);
    return p.slice ?? { from: 0, to: p.global[dim]! };
  });
  return { global: first!.global, dtype: pieces.at(-1)!.dtype, dim, ranges };
}

const notOneModel = (stem: string): Error =>
  new Error(`Cannot reallocate ${stem}: the layouts are of two models, give two layouts of one`);

/** Everything that has to be written in the receivers' memory, each element in one demand per receiver. */
export function demandsOf(from: readonly Holder[], to: readonly Holder[], devicesPerNode: number): Demand[] {
  const demands: Demand[] = [], nodeOf = (device: number) => Math.floor(device / devicesPerNode);
  const shards = (holders: readonly Holder[]) => new Map(holders.map((h) => [h.device, h.shard]));
  const held = shards(from), needed = shards(to), same = sameShards();
  const nearest = (senders: readonly number[], receivers: readonly number[]) => {
    // Who holds all that a receiver needs gives it in one piece.
    const twins = senders.filter((s) => receivers.some((r) => same(held.get(s)!, needed.get(r)!)));
    return twins.length ? twins : senders;
  };
  for (const [stack, { layers, ...sides }] of stacksOf(groupsOf(from), groupsOf(to)).entries()) {
    for (const { parts, ...cell } of cellsOf({ layers, ...sides })) {
      const layerBytes = parts.reduce((n, p) => n + p.bytes, 0);
      const size = { layers, stack, parts, layerBytes, bytes: layerBytes * (layers.to - layers.from) };
      const add = (local: boolean, senders: readonly number[], receivers: readonly number[]) =>
        demands.push({ ...size, local, senders, receivers });
      const senders = devicesIn(cell.from), holding = new Set(senders);
      for (const [node, receivers] of Map.groupBy(devicesIn(cell.to), nodeOf)) {
        const near = senders.filter((s) => nodeOf(s) === node);
        const lacking = receivers.filter((r) => !holding.has(r));
        for (const r of receivers) if (holding.has(r)) add(true, [r], [r]);
        if (lacking.length && !near.length) add(false, nearest(senders, lacking), lacking);
        else for (const r of lacking) add(false, nearest(near, [r]), [r]);
      }
    }
  }
  return demands;
}

const devicesIn = (groups: readonly Group[]): number[] =>
  groups.flatMap((g) => g.devices).sort((a, b) => a - b);

/** {@link isSame}, once for each pair. */
function sameShards(): (a: Shard, b: Shard) => boolean {
  const known = new Map<Shard, Map<Shard, boolean>>();
  return (a, b) => {
    const row = known.get(a) ?? new Map<Shard, boolean>();
    known.set(a, row);
    const answer = row.get(b) ?? isSame(a, b);
    row.set(b, answer);
    return answer;
  };
}
