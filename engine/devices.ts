/** The devices of a run, and the groups in which their ranks meet. */
import { Device, DeviceSegment, Group, type Membership, useCpu } from "../ffi/device.ts";
import { openGpus } from "../ffi/gpus.ts";
import type { Axis } from "../ir/op.ts";
import type { ParallelStrategy } from "../ir/plan.ts";
import { groupsOf } from "../ir/mesh.ts";

export type Memberships = Partial<Record<Axis, Membership>>;

/** Devices in the order of a mesh's ranks, and how a call uses them. */
export interface Ranks {
  /** Numbers of the devices in the cluster, by rank. */
  readonly devices: readonly number[];
  readonly strategy: ParallelStrategy;
  /** Ranks of a tensor-parallel group that hold the same key and value heads. */
  readonly kvReplicas: number;
}

/** A rank that waits for another one this long has met a bug or a dead device, not a slow one. */
export const DEADLINE_SECONDS = 600;

export class Devices implements Disposable {
  readonly #groups = new Map<string, Group>();

  private constructor(readonly all: readonly Device[], readonly deadlineSeconds: number) {}

  /**
   * @param o.threads of each device
   * @param o.gpus the GPU of every device; without them devices are virtual ones of the CPU
   * @throws NativeError when there is no memory; Error when a GPU or what it needs is not there
   */
  static open(
    o: {
      readonly count: number;
      readonly threads: number;
      readonly gpus?: readonly number[];
      readonly deadlineSeconds?: number;
    },
  ): Devices {
    using opened = new DisposableStack();
    if (o.gpus) openGpus(o.gpus);
    else useCpu();
    const all = Array.from({ length: o.count }, (_, i) => {
      const gpu = o.gpus?.[i];
      return opened.use(Device.open({ threads: o.threads, ...gpu !== undefined && { gpu } }));
    });
    opened.move();
    return new Devices(all, o.deadlineSeconds ?? DEADLINE_SECONDS);
  }

  /** Devices that are open already; whoever opened them closes them, through this or without. */
  static of(...all: readonly Device[]): Devices {
    return new Devices(all, DEADLINE_SECONDS);
  }

  /** Memory near a device. @throws NativeError when there is none */
  segment(device: number, bytes: number): DeviceSegment {
    return new DeviceSegment(bytes, { near: this.all[device]! });
  }

  /** The groups that a rank of a mesh is in: those of axes with more than one rank. Made at their first use. */
  memberships(ranks: Ranks, rank: number): Memberships {
    const memberships: Memberships = {};
    for (const { axis, members } of groupsOf(ranks.strategy, ranks.kvReplicas, rank)) {
      const key = `${axis} ${members.map((r) => ranks.devices[r]).join()}`;
      let group = this.#groups.get(key);
      if (!group) this.#groups.set(key, group = Group.create(members.length, this.deadlineSeconds));
      memberships[axis] = { group, rank: members.indexOf(rank) };
    }
    return memberships;
  }

  /** While on, queued and running programs of every device end early. */
  cancel(on: boolean): void {
    for (const device of this.all) device.cancel(on);
    // A group that was left in the middle of an operation is of no use any more.
    if (!on) this.#dropGroups();
  }

  #dropGroups(): void {
    for (const group of this.#groups.values()) group[Symbol.dispose]();
    this.#groups.clear();
  }

  [Symbol.dispose](): void {
    for (const device of this.all) device.close();
    this.#dropGroups();
  }
}
