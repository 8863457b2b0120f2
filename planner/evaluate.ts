/** Seconds and bytes of whole plans: the schedule that a run would follow, simulated with the costs of its parts. */
import type { Instruction, ReplicaSpec, Schedule } from "../ir/plan.ts";
import type { CostInput } from "./call_cost.ts";
import type { Unit } from "./candidates.ts";
import type { Costs } from "./cost.ts";
import { type DeviceBytes, deviceBytes } from "./device_memory.ts";
import { Reallocations } from "./reallocation_cost.ts";
import { Schedules } from "./schedules.ts";
import { loadOf, simulateShared } from "./sharing.ts";
import { simulate, type Simulation } from "./simulate.ts";
import type { Point } from "./space.ts";

/** What a point comes to. */
export interface Evaluation extends Simulation {
  readonly schedule: Schedule;
  /** Of every instruction of a step. */
  readonly seconds: readonly number[];
  /** By stretch of devices that are alike. */
  readonly memory: readonly DeviceBytes[];
  /** Bytes beyond what a device has, of the fullest one; 0 when it fits. */
  readonly overflow: number;
}

/** Reallocations among so few devices are worked out at once; among more they are estimated first. */
const SMALL = 16;

/** Evaluates points of one run's space. */
export class Evaluator {
  readonly reallocations: Reallocations;
  readonly #schedules: Schedules;
  readonly #host: ReadonlyMap<string, number>;
  readonly #devices: number;
  /** Models that are trained, or follow one that is. */
  readonly #changes: ReadonlySet<string>;
  /** Unit and place in it, by call. */
  readonly #unit: ReadonlyMap<string, readonly [unit: number, call: number]>;

  constructor(readonly input: CostInput, readonly units: readonly Unit[], costs: Costs) {
    this.reallocations = new Reallocations(input);
    this.#devices = input.cluster.nodes * input.cluster.devicesPerNode;
    this.#schedules = new Schedules(input, units);
    const { calls, models } = input.graph;
    this.#changes = new Set(
      Object.entries(models).filter(([, m]) => m.optimizer !== null || m.ema).map(([name]) => name),
    );
    this.#host = new Map(calls.filter((c) => !("model" in c)).map((c) => [c.id, costs.hostSeconds(c)]));
    this.#unit = new Map(units.flatMap((u, i) => u.calls.map((c, j) => [c.id, [i, j] as const])));
  }

  /** The plan of a point. */
  plan(point: Point) {
    return this.#schedules.plan(point);
  }

  /** Seconds and bytes; every move of parameters included. */
  of(point: Point): Evaluation {
    const { schedule, early } = this.#schedules.exact(point);
    const seconds = schedule.step.map((i) => this.#seconds(i, schedule, point));
    const simulation = this.#simulated(schedule, early, seconds, point),
      memory = deviceBytes(this.input, this.units, point, schedule);
    return { ...simulation, schedule, seconds, memory, overflow: this.#overflow(memory) };
  }

  /** About the seconds, and the bytes beyond a device's: a tenth of the work of {@link of}. */
  about(point: Point): { readonly period: number; readonly overflow: number } {
    const { schedule, early } = this.#schedules.of(point);
    const seconds = schedule.step.map((i) => this.#seconds(i, schedule, point, true));
    const { period } = this.#simulated(schedule, early, seconds, point);
    return { period, overflow: this.#overflow(deviceBytes(this.input, this.units, point, schedule)) };
  }

  /** The device that has least room, or one that is asked for. */
  fullest(point: Point, device?: number): DeviceBytes {
    const { schedule } = this.#schedules.of(point);
    return deviceBytes(this.input, this.units, point, schedule, device === undefined ? undefined : [device])
      .reduce((a, b) => b.total > a.total ? b : a);
  }

  /** What runs at once is slower where devices share processors. */
  #simulated(
    schedule: Schedule,
    early: ReadonlySet<number>,
    seconds: readonly number[],
    point: Point,
  ): Simulation {
    const { capacity = Infinity } = this.input.profile;
    if (this.#devices <= capacity) return simulate(schedule, early, seconds);
    const loads = schedule.step.map((i) => {
      const at = i.op === "run" ? this.#unit.get(i.call) : undefined;
      return at ? loadOf(point.choices[at[0]]!.candidate.costs[at[1]]!) : i.devices.length;
    });
    return simulateShared(schedule, early, seconds, loads, capacity);
  }

  /** A time that the point cannot beat: without reallocations, and as if every device had processors of its own. */
  least(point: Point): number {
    const { schedule, early } = this.#schedules.of(point);
    const seconds = schedule.step.map((i) => i.op === "reallocate" ? 0 : this.#seconds(i, schedule, point));
    return simulate(schedule, early, seconds).period;
  }

  #overflow(memory: readonly DeviceBytes[]): number {
    return Math.max(0, Math.max(...memory.map((m) => m.total)) - this.input.cluster.memoryBytes);
  }

  #seconds(i: Instruction, { replicas }: Schedule, point: Point, about = false): number {
    switch (i.op) {
      case "run": {
        const host = this.#host.get(i.call);
        if (host !== undefined) return host;
        const [unit, call] = this.#unit.get(i.call)!;
        return point.choices[unit]!.candidate.costs[call]!.seconds;
      }
      case "reallocate":
        return about && this.#devices > SMALL
          ? this.reallocations.estimate(
            replicas[i.from]!,
            replicas[i.to]!,
            this.#rankBytes(replicas[i.to]!, point),
          )
          : this.reallocations.seconds(replicas[i.from]!, replicas[i.to]!);
      case "fetch":
      case "offload": {
        const { model } = replicas[i.replica]!,
          unit = homeOf(this.units, model),
          { held } = point.choices[unit]!.candidate;
        // The host's copy of a model that nothing changes is good already.
        if (i.op === "offload" && !this.#changes.has(model)) return 0;
        return this.reallocations.hostSeconds(Math.max(...held.map((h) => h[i.part])));
      }
      case "load":
      case "free":
        return 0;
    }
  }

  /** Parameters on a rank of a replica, about: a model's shards are nearly equal. */
  #rankBytes({ model, strategy }: ReplicaSpec, { choices }: Point): number {
    const { candidate } = choices[homeOf(this.units, model)]!, { tp } = candidate.strategy;
    const whole = candidate.held.reduce((n, h) => n + h.params, 0) * tp;
    return whole / strategy.pp / strategy.tp;
  }

  /** Seconds of a call that uses no model. */
  host(id: string): number | undefined {
    return this.#host.get(id);
  }
}

/** The unit that decides where a model's home is: the one that trains it, else the first. */
export function homeOf(units: readonly Unit[], model: string): number {
  const trains = units.findIndex((u) => u.model === model && u.calls[0]!.kind === "train");
  return trains >= 0 ? trains : units.findIndex((u) => u.model === model);
}
