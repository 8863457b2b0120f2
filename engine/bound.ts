/** A call bound to its mesh: every program of every rank with its memory, addressed by what it is for. */
import { kvReplicas } from "../compiler/layout.ts";
import type { Programs } from "../compiler/programs.ts";
import { type Part, slotsOf, type Use, usesOf } from "../compiler/uses.ts";
import type { Call } from "../ir/graph.ts";
import { rankOf } from "../ir/mesh.ts";
import type { ParallelStrategy } from "../ir/plan.ts";
import type { Job } from "../ffi/device.ts";
import { Binding, type Transfer } from "./binding.ts";
import type { Ranks } from "./devices.ts";
import type { Engine } from "./engine.ts";
import { Lanes, Staged } from "./lanes.ts";
import type { Replica } from "./replica.ts";
import type { Timeline } from "./timeline.ts";

/** Where a call runs. */
export interface Placement {
  /** Devices of the mesh by rank. */
  readonly devices: readonly number[];
  readonly strategy: ParallelStrategy;
  readonly replica: Replica | null;
}

export class BoundCall {
  readonly #bindings = new Map<string, Binding>();
  /** Step that the call works for now, for the timeline. */
  step = 0;

  /** Allocates what the call keeps between submissions; nothing is allocated on a device afterwards. */
  constructor(
    readonly engine: Engine,
    readonly call: Call,
    programs: Programs,
    readonly placement: Placement,
    readonly timeline?: Timeline,
  ) {
    const { devices, strategy, replica } = placement;
    const config = replica && engine.models[replica.spec.model]!.config;
    const ranks: Ranks = { devices, strategy, kvReplicas: config ? kvReplicas(config, strategy.tp) : 1 };
    for (const use of usesOf(call, programs, strategy)) {
      const device = devices[use.rank]!, held = replica?.holders[use.rank]?.segments ?? {};
      const shared = { ...held, ...engine.calls.own(device, call.id, use) };
      const name = devices.length > 1
        ? `${use.program.name} on device ${device} (rank ${use.rank} of ${devices.length})`
        : use.program.name;
      this.#bindings.set(
        key(use.part, use.rank, use.slot),
        new Binding(engine.devices.all[device]!, use.program, shared, {
          loaded: engine.loaded(use.program),
          groups: () => engine.devices.memberships(ranks, use.rank),
          label: name,
          ...(timeline && {
            onJob: (job) => this.#watch(job, device, use, timeline),
            onTransfer: (t) =>
              timeline.add({ ...this.#transfer(device), detail: `fields to ${t.to}`, ...span(t) }),
          }),
        }),
      );
    }
  }

  get strategy(): ParallelStrategy {
    return this.placement.strategy;
  }

  binding(part: Part, rank: number, slot = 0): Binding {
    const found = this.#bindings.get(key(part, rank, slot));
    if (!found) throw new RangeError(`Cannot run ${part} of ${this.call.id}: rank ${rank} has none`);
    return found;
  }
  /** Bindings of a part on all ranks. */
  all(part: Part): Binding[] {
    return [...this.#bindings].filter(([name]) => name.startsWith(`${part} `)).map(([, b]) => b);
  }
  has(part: Part, rank: number): boolean {
    return this.#bindings.has(key(part, rank, 0));
  }

  /** The tensor-parallel ranks of one stage of a data-parallel replica. */
  lanes(part: Part, dp: number, stage: number, slot = 0): Lanes {
    const { strategy, placement } = this;
    const ranks = Array.from({ length: strategy.tp }, (_, tp) => rankOf(strategy, { stage, dp, tp }));
    return new Lanes(
      ranks.map((rank) => this.binding(part, rank, slot)),
      (lane, job, what, bytes) => this.copied(job, placement.devices[ranks[lane]!]!, what, bytes),
    );
  }
  /** All stages of a data-parallel replica. */
  staged(part: Part, dp: number, slot = 0): Staged {
    return new Staged(
      Array.from({ length: this.strategy.pp }, (_, stage) => this.lanes(part, dp, stage, slot)),
    );
  }
  /** Micro-batches (or rollouts) that a stage has memory for. */
  slots(stage: number): number {
    return slotsOf(this.call, this.strategy, stage);
  }

  /** Floating point operations submitted so far. */
  get flops(): number {
    return [...this.#bindings.values()].reduce((n, b) => n + b.flops, 0);
  }

  #watch(job: Job, device: number, { part, at }: Use, timeline: Timeline): void {
    const { step, call, strategy } = this;
    const detail = strategy.pp > 1 ? `stage ${at.stage + 1}, ${part}` : part;
    job.done.then(
      ({ begin, end }) => timeline.add({ device, lane: "call", name: call.id, detail, step, begin, end }),
      () => {},
    );
  }

  #transfer(device: number) {
    return { device, lane: "transfer", name: this.call.id, step: this.step } as const;
  }

  /** Records a copy from another device: activations, gradients, sampled tokens. */
  copied(job: Job, device: number, what: string, bytes: number): void {
    const { timeline } = this, transfer = this.#transfer(device);
    if (!timeline || !bytes) return;
    job.done.then(
      ({ begin, end }) => timeline.add({ ...transfer, detail: what, begin, end, bytes }),
      () => {},
    );
  }

  dispose(): void {
    for (const b of this.#bindings.values()) b.dispose();
  }
}

const key = (part: Part, rank: number, slot: number): string => `${part} ${rank} ${slot}`;

const span = ({ begin, end, bytes }: Transfer) => ({ begin, end, bytes });
