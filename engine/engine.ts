/** Owns the devices' memory: replicas, what calls keep, what they have in turn; and the states of a run. Graphs are bound to it as stages. */
import { type Grid, type Shard, shardsOf } from "../compiler/layout.ts";
import type { ModelConfig } from "../compiler/models/config.ts";
import { parameterBytes } from "../compiler/models/parameters.ts";
import { baseModel, baseOffset, mayShare, mayUseBase, samePiece } from "../compiler/sharing.ts";
import type { ModelSpec } from "../ir/graph.ts";
import { devicesOf } from "../ir/mesh.ts";
import type { Cluster, Replica as Name, ReplicaSpec, Schedule } from "../ir/plan.ts";
import type { Parameter, Program } from "../ir/program.ts";
import { type DeviceSegment, LoadedProgram } from "../ffi/device.ts";
import { CallMemory } from "./call_memory.ts";
import type { Devices } from "./devices.ts";
import { Reallocator } from "./reallocation.ts";
import { Replica } from "./replica.ts";
import { move } from "./residence.ts";
import type { WeightSink } from "./weights.ts";

/** What the engine needs to know of a model beside its programs. */
export interface EngineModel {
  readonly spec: ModelSpec;
  readonly config: ModelConfig;
  /** Every parameter as Hugging Face has it. */
  readonly parameters: readonly Parameter[];
  readonly constants: Float32Array;
  /** Gives every parameter row-major, as a whole or some rows at a time. */
  readonly load: (sink: WeightSink) => Promise<unknown>;
}

/** How much the engine allocates, from `planner/memory.ts`. */
export interface EngineMemory {
  readonly calls?: ReadonlyMap<number, ReadonlyMap<string, number>>;
  readonly pools?: ReadonlyMap<
    number,
    { readonly bytes: number; readonly places: ReadonlyMap<string, Place> }
  >;
}

/** A stretch of memory in turn. */
interface Place {
  readonly offset: number;
  readonly bytes: number;
}

export interface EngineOptions {
  readonly devices: Devices;
  readonly cluster: Pick<Cluster, "devicesPerNode">;
  readonly models: Readonly<Record<string, EngineModel>>;
  readonly states: Readonly<Record<string, number>>;
  readonly schedule: Pick<Schedule, "replicas" | "prologue">;
  readonly memory: EngineMemory;
}

export class Engine {
  readonly replicas: ReadonlyMap<Name, Replica>;
  readonly states: Map<string, number>;
  /** Caches, inputs and outputs of calls. */
  readonly calls: CallMemory;
  readonly #pools = new Map<number, DeviceSegment>();
  readonly #constants = new Map<string, DeviceSegment>();
  readonly #views: DeviceSegment[] = [];
  readonly #loaded = new Map<Program, LoadedProgram>();
  readonly #reallocators = new Map<string, Reallocator>();

  private constructor(readonly options: EngineOptions) {
    const { memory, schedule } = options;
    this.states = new Map(Object.entries(options.states));
    this.calls = new CallMemory(options.devices, memory.calls, (device, name) => this.#inTurn(device, name));
    for (const [device, { bytes }] of memory.pools ?? []) {
      this.#pools.set(device, this.devices.segment(device, Math.max(64, bytes)));
    }
    const replicas = new Map<Name, Replica>(),
      specs = Object.fromEntries(Object.entries(options.models).map(([key, m]) => [key, m.spec]));
    const make = (name: Name): Replica => {
      const made = replicas.get(name), spec = schedule.replicas[name]!;
      if (made) return made;
      const base = spec.home ? baseModel(spec.model, specs) : undefined, below = base && `${base}@0`;
      const replica = this.#replica(name, spec, {
        home: spec.home ? undefined : make(`${spec.model}@0`),
        base: below && schedule.replicas[below] ? make(below) : undefined,
      });
      replicas.set(name, replica);
      return replica;
    };
    // In the order of the schedule, whatever had to be made first.
    this.replicas = new Map(Object.keys(schedule.replicas).map((name) => [name, make(name)]));
  }

  /** Allocates what all stages share and runs the prologue: every home is loaded. */
  static async create(options: EngineOptions): Promise<Engine> {
    const engine = new Engine(options);
    for (const action of options.schedule.prologue) {
      if (action.op === "load") {
        const replica = engine.replica(action.replica);
        // Where all of it lies in the memory of a model with an adapter, that one's load brings it.
        if (!replica.borrowed) {
          await options.models[action.model]!.load((p, values, row) =>
            replica.write(p.name, values, "param", row)
          );
        }
        replica.version = 0;
      } else if (action.op === "reallocate") await engine.renew(action.to);
    }
    return engine;
  }

  get devices(): Devices {
    return this.options.devices;
  }
  get models(): Readonly<Record<string, EngineModel>> {
    return this.options.models;
  }

  replica(name: Name): Replica {
    const replica = this.replicas.get(name);
    if (!replica) throw new RangeError(`Cannot find replica ${name}: the schedule has none of that name`);
    return replica;
  }
  /** The copy of a model that is loaded, trained and saved. */
  home(model: string): Replica {
    return this.replica(`${model}@0`);
  }
  /** Homes by model. */
  get homes(): ReadonlyMap<string, Replica> {
    return new Map([...this.replicas.values()].filter((r) => r.spec.home).map((r) => [r.spec.model, r]));
  }

  /** A program as the native library has it, loaded once. */
  loaded(program: Program): LoadedProgram {
    let loaded = this.#loaded.get(program);
    if (!loaded) this.#loaded.set(program, loaded = LoadedProgram.load(program));
    return loaded;
  }

  /** The copies between two replicas, computed at their first use. */
  reallocator(from: Name, to: Name): Reallocator {
    const key = `${from} ${to}`;
    let made = this.#reallocators.get(key);
    if (!made) {
      const { devices, cluster } = this.options;
      made = new Reallocator(devices, this.replica(from), this.replica(to), cluster);
      this.#reallocators.set(key, made);
    }
    return made;
  }

  /** Copies the weights of its home to a replica, outside any step. */
  async renew(name: Name): Promise<void> {
    const replica = this.replica(name), home = this.home(replica.spec.model);
    if (home.spec.residence === "pool") await move(this.devices, home, "fetch", "params");
    await this.reallocator(home.name, name).run(1, () => {});
    replica.version = home.version;
  }

  #replica(
    name: Name,
    spec: ReplicaSpec,
    { home, base }: { readonly home: Replica | undefined; readonly base: Replica | undefined },
  ): Replica {
    const { models, cluster } = this.options, model = models[spec.model]!;
    const trained = spec.home && model.spec.optimizer !== null;
    const shards: Grid<Shard> = shardsOf(model.config, model.spec.head, spec.strategy);
    const seen = (view: DeviceSegment | undefined) => {
      if (view) this.#views.push(view);
      return view;
    };
    return new Replica(
      name,
      spec,
      devicesOf(spec.mesh, cluster),
      shards,
      trained,
      trained || model.spec.ema !== undefined,
      {
        own: (device, bytes) => this.devices.segment(device, bytes),
        constants: (device) => this.#constantsOf(spec.model, device),
        pooled: (device, part, bytes) =>
          seen(this.#inTurn(device, part === "params" ? name : `${name} moments`, { offset: 0, bytes }))!,
        gradients: (device, bytes) => seen(this.#inTurn(device, `${name} grads`, { offset: 0, bytes })),
        ...(base && mayUseBase(spec, base.spec) && {
          shared: (device: number, shard: Shard) => {
            const holder = base.holders.find((h) => h.device === device);
            const offset = holder ? baseOffset(holder.shard, shard) : null;
            if (offset === null) return undefined;
            const view = holder!.segments.params!.view(offset, parameterBytes(shard.parameters));
            this.#views.push(view);
            return view;
          },
        }),
        ...(mayShare(spec, home?.spec) && {
          shared: (device: number, shard: Shard) => {
            const holder = home!.holders.find((h) => h.device === device);
            return holder && samePiece(holder.shard, shard) ? holder.segments.params : undefined;
          },
        }),
      },
    );
  }

  /** All or a part of what has memory in turn on a device under a name, where something has. */
  #inTurn(device: number, name: string, part?: Place): DeviceSegment | undefined {
    const place = this.options.memory.pools?.get(device)?.places.get(name);
    if (!place) return undefined;
    const { offset, bytes } = part ?? { offset: 0, bytes: place.bytes };
    return this.#pools.get(device)!.view(place.offset + offset, bytes);
  }

  #constantsOf(model: string, device: number): DeviceSegment {
    const key = `${device} ${model}`, { constants } = this.options.models[model]!;
    let segment = this.#constants.get(key);
    if (!segment) {
      this.#constants.set(key, segment = this.devices.segment(device, constants.byteLength));
      segment.write(0, constants);
    }
    return segment;
  }

  dispose(): void {
    for (const replica of this.replicas.values()) replica.dispose();
    for (const loaded of this.#loaded.values()) loaded.dispose();
    this.calls.dispose();
    for (
      const segments of [this.#views, this.#pools.values(), this.#constants.values()]
    ) {
      for (const segment of segments) segment.dispose();
    }
  }
}
