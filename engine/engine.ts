/** Owns the device, the arena, the replicas and the states of a run; graphs are bound to it as stages. */
import type { ModelSpec } from "../ir/graph.ts";
import type { Parameter } from "../ir/program.ts";
import type { Schedule } from "../ir/plan.ts";
import { type Device, DeviceSegment } from "../ffi/device.ts";
import { CallMemory } from "./call_memory.ts";
import { Replica } from "./replica.ts";

/** What the engine needs to know of a model beside its programs. */
export interface EngineModel {
  readonly spec: ModelSpec;
  readonly parameters: readonly Parameter[];
  readonly constants: Float32Array;
  readonly maxPositions: number;
  /** Gives every parameter in its stored layout. */
  readonly load: (sink: (p: Parameter, stored: Float32Array) => void) => Promise<unknown>;
}

export class Engine {
  readonly replicas = new Map<string, Replica>();
  readonly states: Map<string, number>;
  /** Activations of every program of this device, one program at a time. */
  readonly arena: DeviceSegment;

  private constructor(
    readonly device: Device,
    readonly models: Readonly<Record<string, EngineModel>>,
    states: Readonly<Record<string, number>>,
    arenaBytes: number,
    /** Caches, inputs and outputs of calls. */
    readonly calls: CallMemory,
  ) {
    this.states = new Map(Object.entries(states));
    this.arena = new DeviceSegment(Math.max(64, arenaBytes));
  }

  /** Allocates what all stages share and loads every replica of the schedule's prologue. */
  static async create(
    device: Device,
    o: {
      readonly models: Readonly<Record<string, EngineModel>>;
      readonly states: Readonly<Record<string, number>>;
      readonly arenaBytes: number;
      readonly prologue: Schedule["prologue"];
      /** Bytes of what several stages share, by name. */
      readonly callBytes?: Readonly<Record<string, number>>;
    },
  ): Promise<Engine> {
    const engine = new Engine(device, o.models, o.states, o.arenaBytes, new CallMemory(o.callBytes));
    for (const instruction of o.prologue) {
      if (instruction.op !== "load") continue;
      const model = o.models[instruction.model]!;
      const replica = new Replica(
        instruction.model,
        model.spec.head,
        model.parameters,
        model.constants,
        model.spec.optimizer !== null,
      );
      await model.load((p, stored) => replica.write(p, stored));
      engine.replicas.set(instruction.model, replica);
    }
    return engine;
  }

  dispose(): void {
    for (const replica of this.replicas.values()) replica.dispose();
    this.calls.dispose();
    this.arena.dispose();
  }
}
