/** The byte table of a run: what the engine allocates on every device, to the byte, and what a plan is refused for. */
import { kvReplicas } from "../compiler/layout.ts";
import { usesOf } from "../compiler/uses.ts";
import type { Programs } from "../compiler/programs.ts";
import { devicesOf, groupsOf } from "../ir/mesh.ts";
import { align } from "../ir/op.ts";
import type { Replica, Schedule } from "../ir/plan.ts";
import { heldByReplica, type ModelMemory } from "./held.ts";
import { poolOf } from "./pool.ts";
import type { Placed } from "./replicas.ts";

export interface MemoryRow {
  /** "actor params", "arena", "host batch". */
  readonly name: string;
  readonly bytes: number;
  readonly where: "device" | "host";
  /** Number of the device. */
  readonly device?: number;
}

/** A graph with all that was made of it. */
export interface Compiled extends Placed {
  readonly schedule: Schedule;
  readonly programs: Programs;
}

export interface MemoryInput {
  readonly graphs: readonly Compiled[];
  readonly models: Readonly<Record<string, ModelMemory>>;
  /** Kernel scratch of one device. */
  readonly scratch: number;
  readonly host: readonly { readonly name: string; readonly bytes: number }[];
}

/** Everything that the engine allocates, with the names that it is known by there. */
export interface MemoryPlan {
  readonly rows: readonly MemoryRow[];
  readonly arenas: ReadonlyMap<number, number>;
  /** Bytes of calls' own memory by device and name (`compiler/uses.ts`). */
  readonly calls: ReadonlyMap<number, ReadonlyMap<string, number>>;
  /** Memory that replicas have in turn: its bytes on every device, and where in it each replica is. */
  readonly pools: ReadonlyMap<
    number,
    { readonly bytes: number; readonly offsets: ReadonlyMap<Replica, number> }
  >;
}

/**
 * All programs of one device share one arena; a call's inputs and outputs are its own. Stages (the step, the evaluation) never
 * run at the same time: a call that several have keeps one memory, as large as the largest asks for.
 */
export function memoryPlan(input: MemoryInput): MemoryPlan {
  const { graphs, models } = input, cluster = graphs[0]!.plan.cluster, { replicas } = graphs[0]!.schedule;
  const held = heldByReplica(replicas, models, cluster);
  const rows: MemoryRow[] = [], arenas = new Map<number, number>();
  const calls = new Map<number, Map<string, number>>(), used = new Set<number>();
  const device = (at: number, name: string, bytes: number) => {
    used.add(at);
    if (bytes) rows.push({ name, bytes, where: "device", device: at });
  };
  const shared = (at: number, name: string) => rows.push({ name, bytes: 0, where: "device", device: at });
  const constants = new Set<string>();
  for (const [name, spec] of Object.entries(replicas)) {
    const ranks = held[name]!, label = spec.home ? spec.model : name;
    devicesOf(spec.mesh, cluster).forEach((at, rank) => {
      const { params, grads, moments, base } = ranks[rank]!;
      if (base !== undefined) shared(at, `${label} params, those of ${base}`);
      if (spec.residence === "device") device(at, `${label} params`, params);
      if (!constants.has(`${at} ${spec.model}`)) {
        constants.add(`${at} ${spec.model}`);
        device(at, `${spec.model} constants`, models[spec.model]!.constants);
      }
      device(at, `${label} grads`, grads);
      if (spec.residence === "device") device(at, `${label} moments`, moments);
      else if (spec.home) {
        rows.push({ name: `${label} offloaded`, bytes: params + moments, where: "host", device: at });
      }
    });
  }
  for (const graph of graphs) {
    for (const call of graph.graph.calls) {
      const strategy = graph.plan.assignments[call.id]?.strategy, devices = devicesOfCall(call.id, graph);
      for (const use of usesOf(call, graph.programs, strategy)) {
        const at = devices[use.rank]!;
        arenas.set(at, Math.max(arenas.get(at) ?? 0, use.program.segmentBytes.arena));
        const own = calls.get(at) ?? new Map<string, number>();
        calls.set(at, own);
        for (const [segment, name] of Object.entries(use.memory)) {
          const bytes = use.program.segmentBytes[segment as keyof typeof use.memory];
          own.set(name, Math.max(own.get(name) ?? 0, bytes));
        }
      }
    }
  }
  for (const [at, bytes] of arenas) device(at, "arena", bytes);
  for (const [at, own] of calls) for (const [name, bytes] of merged(own)) device(at, name, bytes);
  const pools = poolOf(graphs.map((g) => g.schedule), cluster, (name, rank) => {
    const { params, moments } = held[name]![rank]!;
    return align(params) + align(moments);
  });
  for (const [at, { bytes }] of pools) device(at, "replicas in turn", bytes);
  for (const [at, groups] of groupsByDevice(input)) device(at, "groups", groups * GROUP_BYTES);
  for (const at of used) device(at, "scratch", input.scratch);
  for (const h of input.host) rows.push({ ...h, where: "host" });
  rows.sort((a, b) => (a.device ?? Infinity) - (b.device ?? Infinity));
  return { rows, arenas, calls, pools };
}

/** What a rank leaves in a group for the others to read, twice: `STAGE_BYTES` of cuda/cpu/group.h. */
const GROUP_BYTES = 2 * 32 * 1024;

/** How many groups every device is in: one for each set of devices that meet on an axis, whatever the call. */
function groupsByDevice({ graphs, models }: MemoryInput): Map<number, number> {
  const seen = new Set<string>(), counts = new Map<number, number>();
  for (const { graph, plan } of graphs) {
    for (const call of graph.calls) {
      if (!("model" in call)) continue;
      const { mesh, strategy } = plan.assignments[call.id]!, devices = devicesOf(mesh, plan.cluster);
      devices.forEach((device, rank) => {
        for (
          const { axis, members } of groupsOf(
            strategy,
            kvReplicas(models[call.model]!.config, strategy.tp),
            rank,
          )
        ) {
          const key = `${device} ${axis} ${members.map((r) => devices[r]).join()}`;
          if (!seen.has(key)) counts.set(device, (counts.get(device) ?? 0) + 1);
          seen.add(key);
        }
      });
    }
  }
  return counts;
}

/** Devices of a call by rank: its mesh, or for arithmetic the one that its schedule says. */
export function devicesOfCall(
  id: string,
  { plan, schedule }: Pick<Compiled, "plan" | "schedule">,
): readonly number[] {
  const assignment = plan.assignments[id];
  if (assignment) return devicesOf(assignment.mesh, plan.cluster);
  return schedule.step.find((i) => i.op === "run" && i.call === id)?.devices ?? [];
}

/** Inputs and outputs of one program as one row. */
function merged(own: ReadonlyMap<string, number>): Map<string, number> {
  const rows = new Map<string, number>();
  for (const [name, bytes] of own) {
    const row = name.replace(
      /( #\d+)?( prefill| decode| copy)? (inputs|outputs|saved|kv|state)$/,
      (_, __, part, what) =>
        what === "kv" || what === "state" ? ` ${what}` : `${part ?? ""} inputs and outputs`,
    );
    rows.set(row, (rows.get(row) ?? 0) + bytes);
  }
  return rows;
}
