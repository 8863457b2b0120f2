/** Carries out parameter reallocations: a fixed list of copies between the devices of two replicas. */
import { type Move, reallocate, type Reallocation } from "../compiler/reallocate.ts";
import { storageOf } from "../compiler/models/storage.ts";
import { parameterBytes } from "../compiler/models/transformer.ts";
import type { DeviceSegment, Job, SegmentMove } from "../ffi/device.ts";
import { BYTES, PANEL } from "../ir/op.ts";
import type { Devices } from "./devices.ts";
import { settled } from "./lanes.ts";
import type { Replica } from "./replica.ts";

/** What one reallocation came to. */
export interface ReallocationReport {
  readonly from: string;
  readonly to: string;
  readonly seconds: number;
  /** Bytes that crossed from device to device, and the least that had to. */
  readonly bytes: number;
  readonly minimum: number;
  /** Bytes that stayed on their device and were laid out anew. */
  readonly localBytes: number;
  readonly received: ReadonlyMap<number, number>;
}

/** What one device receives in one job. */
interface Received {
  readonly moves: SegmentMove[];
  /** Of these, bytes that other devices send. */
  bytes: number;
}

/** The copies from one replica to another, computed once. */
export class Reallocator {
  readonly plan: Reallocation;
  /** Copies of every receiving device; those that pass on what another one received come second. */
  readonly #direct: ReadonlyMap<number, Received>;
  readonly #relayed: ReadonlyMap<number, Received>;
  /** Panels that end with lanes of no row, in memory that others had before: products read those lanes as zeros. */
  readonly #padding: readonly {
    readonly segment: DeviceSegment;
    readonly offset: number;
    readonly bytes: number;
  }[];

  constructor(
    readonly devices: Devices,
    readonly from: Replica,
    readonly to: Replica,
    cluster: { readonly devicesPerNode: number },
  ) {
    this.plan = reallocate(from.holders, to.holders, cluster);
    const params = (replica: Replica, device: number) =>
      replica.holders.find((h) => h.device === device)!.segments.params!;
    const typeOf = ({ holders: [first] }: Replica) => storageOf(first!.shard.config).weights;
    // An average of bf16 weights is f32: what comes from them is half as wide, and widened on its way.
    const widen = typeOf(from) !== typeOf(to);
    const bound = (move: Move): SegmentMove => {
      const half = widen && move.of === "source" ? BYTES.bf16 / BYTES.f32 : 1;
      return {
        from: params(move.of === "source" ? from : to, move.from),
        to: params(to, move.to),
        fromOffset: move.source * half,
        toOffset: move.target,
        bytes: move.bytes,
        count: move.count,
        fromStride: move.sourceStride * half,
        toStride: move.targetStride,
        widen: half !== 1,
      };
    };
    // Devices with the same piece in both: nothing to do where that is one memory, a whole copy where it is not.
    const whole = this.plan.shared.flatMap((device) => {
      const [source, target] = [params(from, device), params(to, device)];
      if (source === target) return [];
      const holder = to.holders.find((h) => h.device === device)!;
      const bytes = parameterBytes(holder.shard.parameters);
      const move = { fromOffset: 0, toOffset: 0, bytes, count: 1, fromStride: 0, toStride: 0 };
      return [[device, { from: source, to: target, ...move }] as const];
    });
    const group = (of: Move["of"], more: readonly (readonly [number, SegmentMove])[] = []) => {
      const all = new Map<number, Received>();
      const add = (device: number, move: SegmentMove, sent: number) => {
        const received = all.get(device) ?? { moves: [], bytes: 0 };
        received.moves.push(move);
        received.bytes += sent;
        all.set(device, received);
      };
      for (const m of this.plan.moves) {
        if (m.of !== of) continue;
        const move = bound(m), sent = move.count * move.bytes * (move.widen ? BYTES.bf16 / BYTES.f32 : 1);
        add(m.to, move, m.from === m.to ? 0 : sent);
      }
      for (const [device, move] of more) add(device, move, 0);
      return all;
    };
    this.#direct = group("source", whole);
    this.#relayed = group("target");
    const own = to.holders.filter((h) => !from.holders.some((f) => f.segments.params === h.segments.params));
    this.#padding = to.spec.residence === "pool" && !to.spec.home ? own.flatMap(paddedPanels) : [];
  }

  /** @param onJob hears of every copy, with the device that receives and the bytes that others send it */
  async run(
    weight: number,
    onJob: (job: Job, device: number, bytes: number) => void,
  ): Promise<ReallocationReport> {
    const { from, to, plan } = this, label = `the reallocation ${from.name} → ${to.name}`;
    const submit = (
      all: ReadonlyMap<number, Received>,
      o: { readonly weight?: number; readonly after?: readonly Job[] },
    ) =>
      [...all].map(([device, { moves, bytes }]) => {
        const job = this.devices.all[device]!.copy(moves, { ...o, label });
        onJob(job, device, bytes);
        return job;
      });
    const start = performance.now();
    for (const { segment, offset, bytes } of this.#padding) segment.fill(offset, bytes, 0);
    const first = submit(this.#direct, { weight });
    // What is passed on has been blended already.
    await settled([...first, ...submit(this.#relayed, { after: first })]);
    const seconds = (performance.now() - start) / 1000;
    const { bytes, minimum, localBytes, received } = plan;
    return { from: from.name, to: to.name, seconds, bytes, minimum, localBytes, received };
  }
}

function paddedPanels({ shard, segments }: Replica["holders"][number]) {
  return shard.parameters.flatMap(({ layout, shape, dtype, offset }) => {
    const [n = 1, k = 1] = shape, whole = n - n % PANEL, row = BYTES[dtype] * k;
    if (layout === "rows" || whole === n) return [];
    return [{ segment: segments.params!, offset: offset + row * whole, bytes: row * PANEL }];
  });
}
