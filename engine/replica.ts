/** One copy of a model's parameters under one layout, on the devices of a mesh, and the version of the weights in it. */
import type { LocalParameter, Range, Shard } from "../compiler/layout.ts";
import { copyRows, type Elements, readLocal, rowsHeld, slabOf, writeLocal } from "../compiler/pieces.ts";
import { parameterBytes } from "../compiler/models/transformer.ts";
import { heldBytes } from "../compiler/sharing.ts";
import { ownPieces } from "../compiler/zero.ts";
import { type Coordinates, coordinatesOf } from "../ir/mesh.ts";
import { align, BYTES, type FloatType, PANEL, type Segment } from "../ir/op.ts";
import type { ReplicaSpec } from "../ir/plan.ts";
import type { Parameter } from "../ir/program.ts";
import { DeviceSegment } from "../ffi/device.ts";
import { storedAs, widened } from "./half.ts";
import { PIECE, Reused, rowPieces } from "./tensor_pieces.ts";

/** What one rank holds. */
export interface Holder {
  readonly rank: number;
  readonly at: Coordinates;
  /** Number of the device in the cluster. */
  readonly device: number;
  readonly shard: Shard;
  readonly segments: Partial<Record<Segment, DeviceSegment>>;
}

/** Where a rank's memory comes from. */
export interface Memory {
  /** Memory near a device that is this replica's alone. */
  readonly own: (device: number, bytes: number) => DeviceSegment;
  readonly constants: (device: number) => DeviceSegment;
  /** Memory of a replica that lives in the pool. */
  readonly pooled: (device: number, part: "params" | "moments", bytes: number) => DeviceSegment;
  /** Memory for gradients, where calls have it in turn. */
  readonly gradients?: (device: number, bytes: number) => DeviceSegment | undefined;
  /** Memory of another replica that holds the same piece on a device, to be used as this one's. */
  readonly shared?: (device: number, shard: Shard) => DeviceSegment | undefined;
}

export type Part = "param" | "m" | "v";
/** A part as memory has it: a parameter is what programs read, and where that is rounded its master copy beside it. */
type Stored = "params" | "master" | "m" | "v";

/** A piece as memory has it, in the type that it comes from or goes to, and in all columns; nothing else runs while they are in use. */
const STORED = new Reused(), CONVERTED = new Reused(), WHOLE = new Reused();

export class Replica {
  /** Completed train calls on this model (DESIGN §1.7); null while it holds no weights. */
  version: number | null = null;
  /** Optimizer updates made. */
  updates = 0;
  /** Whether a train call that did not end has updated it: its weights are those of no version. */
  torn = false;
  readonly holders: readonly Holder[];
  /** Where the pieces of a home lie while it is offloaded: params, then moments, by rank. */
  readonly host: readonly DeviceSegment[];
  /** Whether all of its parameters lie in the memory of another replica. */
  readonly borrowed: boolean;
  readonly #own: DeviceSegment[] = [];

  /**
   * @param devices of the mesh by rank
   * @param shards by stage and tensor-parallel rank
   * @param trained whether it has gradients and optimizer states: a home with an optimizer
   * @param changes whether its weights change at all: it is trained, or follows a model that is
   */
  constructor(
    readonly name: string,
    readonly spec: ReplicaSpec,
    devices: readonly number[],
    shards: readonly (readonly Shard[])[],
    readonly trained: boolean,
    readonly changes: boolean,
    memory: Memory,
  ) {
    const keep = (segment: DeviceSegment) => {
      this.#own.push(segment);
      return segment;
    };
    const pooled = spec.residence === "pool";
    const host: DeviceSegment[] = [];
    this.holders = devices.map((device, rank): Holder => {
      const at = coordinatesOf(spec.strategy, rank), shard = shards[at.stage]![at.tp]!;
      const bytes = heldBytes(shard, spec, at.dp, trained), moments = align(bytes.params);
      const shared = memory.shared?.(device, shard);
      if (shared) {
        return { rank, at, device, shard, segments: { params: shared, constants: memory.constants(device) } };
      }
      const own = (n: number) => keep(memory.own(device, n));
      const place = (part: "params" | "moments", n: number) =>
        pooled ? memory.pooled(device, part, n) : own(n);
      if (pooled && spec.home) host.push(keep(new DeviceSegment(moments + bytes.moments, "host")));
      return {
        rank,
        at,
        device,
        shard,
        segments: {
          params: place("params", bytes.params),
          constants: memory.constants(device),
          ...(trained && {
            grads: memory.gradients?.(device, bytes.grads) ?? own(bytes.grads),
            moments: place("moments", bytes.moments),
          }),
        },
      };
    });
    this.host = host;
    this.borrowed = this.#own.length === 0 && !pooled;
  }

  /**
   * Writes one parameter, or one of its moments, row-major as Hugging Face has it, to every rank that holds a piece.
   *
   * @param row where the values begin that are given: all of them, or some whole rows
   */
  write(name: string, values: Elements, what: Part = "param", row = 0): void {
    for (const holder of this.holders) {
      const local = holder.shard.parameters.find((p) => p.name === name);
      if (!local) continue;
      const rows = { from: row, to: row + values.length / (local.global[1] ?? 1) };
      for (const part of this.#stored(local, what)) this.#writeRows(holder, local, part, rows, values);
    }
  }

  #writeRows(holder: Holder, local: LocalParameter, part: Stored, rows: Range, values: Elements): void {
    const held = rowsHeld(local, rows);
    if (!held) return;
    if (held.whole) return this.#writeSlab(holder, local, part, rows, values);
    // Rows of one panel lie between one another: what is in memory of the others stays.
    const { padded } = held, width = local.global[1] ?? 1, all = WHOLE.f32((padded.to - padded.from) * width);
    this.#readSlab([holder], local, part, padded, all);
    copyRows(local, { from: rows.from, values: widened(values, CONVERTED) }, {
      from: padded.from,
      values: all,
    }, held.own);
    this.#writeSlab(holder, local, part, padded, all);
  }

  #writeSlab(holder: Holder, local: LocalParameter, part: Stored, rows: Range, values: Elements): void {
    const slab = slabOf(local, rows)!, dtype = typeOf(local, part), { elements } = slab.piece;
    const stored = dtype === "f32" ? STORED.f32(elements) : STORED.bf16(elements);
    // The lanes beside the last row are zeros.
    if (slab.piece.layout === "panels" && slab.piece.shape[0]! % PANEL) stored.fill(0);
    writeLocal(slab.piece, storedAs(values, dtype, CONVERTED), stored);
    for (const { segment, offset, from, to } of this.#pieces(holder, local, part)) {
      const begin = Math.max(from, slab.first), end = Math.min(to, slab.first + elements);
      if (begin >= end) continue;
      const own = stored.subarray(begin - slab.first, end - slab.first);
      segment.write(offset + BYTES[dtype] * (begin - from), own);
    }
  }

  /** One whole parameter, or one of its moments, row-major: of a parameter with a master copy, that one. */
  read(p: Pick<Parameter, "name" | "shape">, what: Part = "param"): Float32Array<ArrayBuffer> {
    const [, ...inner] = p.shape, width = inner.reduce((n, d) => n * d, 1);
    const out = new Float32Array(p.shape.reduce((n, d) => n * d, 1));
    for (const rows of rowPieces(p.shape)) {
      this.#readRows(p.name, what, rows, out.subarray(rows.from * width, rows.to * width));
    }
    return out;
  }

  /**
   * The same of one parameter after the other in pieces of whole rows, in an array that is used again for the next one.
   *
   * @param most elements of a piece, of which there are whole panels
   */
  reader(
    what: Part = "param",
    most: number = PIECE,
  ): (p: Pick<Parameter, "name" | "shape">) => Iterable<Float32Array<ArrayBuffer>> {
    const readRows = this.#readRows.bind(this);
    return function* ({ name, shape }) {
      using array = Reused.take();
      const [, ...inner] = shape, width = inner.reduce((n, d) => n * d, 1);
      for (const rows of rowPieces(shape, most)) {
        const out = array.f32((rows.to - rows.from) * width);
        readRows(name, what, rows, out);
        yield out;
      }
    };
  }

  /** Some rows, from every tensor-parallel rank's piece of them. */
  #readRows(name: string, what: Part, rows: Range, out: Float32Array<ArrayBuffer>): void {
    for (const shards of Object.values(Object.groupBy(this.holders, (h) => `${h.at.stage} ${h.at.tp}`))) {
      const local = shards![0]!.shard.parameters.find((x) => x.name === name);
      const held = local && rowsHeld(local, rows);
      if (!held) continue;
      // Data-parallel ranks have equal parameters, and each its own share of sharded moments.
      const part = this.#stored(local, what).at(-1)!;
      const holders = part === "params" || !this.spec.zero ? shards!.slice(0, 1) : shards!;
      if (held.whole) this.#readSlab(holders, local, part, rows, out);
      else {
        const { padded } = held, all = WHOLE.f32((padded.to - padded.from) * (local.global[1] ?? 1));
        this.#readSlab(holders, local, part, padded, all);
        copyRows(local, { from: padded.from, values: all }, { from: rows.from, values: out }, held.own);
      }
    }
  }

  /** What these ranks have of some rows that are whole panels, into its place among all columns of them. */
  #readSlab(
    holders: readonly Holder[],
    local: LocalParameter,
    part: Stored,
    rows: Range,
    out: Float32Array<ArrayBuffer>,
  ): void {
    const slab = slabOf(local, rows)!, dtype = typeOf(local, part), { elements } = slab.piece;
    const stored = dtype === "f32" ? STORED.f32(elements) : STORED.bf16(elements);
    for (const holder of holders) {
      for (const { segment, offset, from, to } of this.#pieces(holder, local, part)) {
        const begin = Math.max(from, slab.first), end = Math.min(to, slab.first + elements);
        if (begin >= end) continue;
        const own = stored.subarray(begin - slab.first, end - slab.first);
        segment.read(offset + BYTES[dtype] * (begin - from), own);
      }
    }
    readLocal(slab.piece, widened(stored, CONVERTED), out);
  }

  #stored(local: LocalParameter, what: Part): readonly Stored[] {
    if (what !== "param") return [what];
    return this.trained && !local.frozen && local.dtype !== "f32" ? ["params", "master"] : ["params"];
  }

  /** Where a rank has elements from … to of a local parameter, of its master copy, or of one of its moments. */
  #pieces(holder: Holder, local: LocalParameter, what: Stored) {
    // A home in the pool is in host memory between steps: parameters, then moments.
    const host = this.host[holder.rank], { params, moments } = holder.segments;
    if (what === "params") {
      return [{ segment: host ?? params!, offset: local.offset, from: 0, to: local.elements }];
    }
    const before = host ? align(parameterBytes(holder.shard.parameters)) : 0;
    const share = { dp: this.spec.strategy.dp, rank: holder.at.dp, zero: this.spec.zero };
    return ownPieces(holder.shard, share).filter((piece) => piece.parameter === local)
      .map(({ from, to, m, v, master }) => ({
        segment: host ?? moments!,
        offset: before + { m, v, master: master! }[what],
        from,
        to,
      }));
  }

  dispose(): void {
    for (const segment of this.#own) segment.dispose();
  }
}

const typeOf = (local: LocalParameter, part: Stored): FloatType => part === "params" ? local.dtype : "f32";
