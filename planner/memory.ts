/** The byte table of a run: what the engine allocates on every device, to the byte, and what a plan is refused for. */
import { kvReplicas } from "../compiler/layout.ts";
import { arenaOf, inTurn, type Use, usesOf } from "../compiler/uses.ts";
import type { Programs } from "../compiler/programs.ts";
import { devicesOf, groupsOf } from "../ir/mesh.ts";
import { align, type Segment } from "../ir/op.ts";
import type { Cluster, Replica, Schedule } from "../ir/plan.ts";
import { type Held, heldByReplica, type ModelMemory } from "./held.ts";
import { callSpan, gradientTenant, poolOf, replicaTenants, type Tenant } from "./pool.ts";
import type { Placed } from "./replicas.ts";

export interface MemoryRow {
  /** "actor params", "in turn", "host batch". */
  readonly name: string;
  readonly bytes: number;
  readonly where: "device" | "host";
  /** Number of the device. */
  readonly device?: number;
  /** Of memory in turn: what has it, largest first. Together they are more than the row's bytes. */
  readonly parts?: readonly { readonly name: string; readonly bytes: number }[];
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
  /** Bytes of what calls keep by device and name (`compiler/uses.ts`). */
  readonly calls: ReadonlyMap<number, ReadonlyMap<string, number>>;
  /**
   * Memory in turn by device: where in it replicas are, gradients ("actor\@0 grads"), and what calls need while they run
   * ("actor.train arena", and the names of `compiler/uses.ts`).
   */
  readonly pools: ReadonlyMap<
    number,
    { readonly bytes: number; readonly places: ReadonlyMap<string, Place> }
  >;
}

/** A stretch of memory. */
export interface Place {
  readonly offset: number;
  readonly bytes: number;
}

/**
 * What a call leaves behind is its own; activations, caches, gradients and copies of models have memory in turn. Stages (the
 * step, the evaluation) never run at the same time: a call that several have keeps one memory, as large as the largest asks for.
 */
export function memoryPlan(input: MemoryInput): MemoryPlan {
  const { graphs, models } = input, cluster = graphs[0]!.plan.cluster, { replicas } = graphs[0]!.schedule;
  const held = heldByReplica(replicas, models, cluster), schedules = graphs.map((g) => g.schedule);
  const rows: MemoryRow[] = [];
  const device = (at: number, name: string, bytes: number) => {
    if (bytes) rows.push({ name, bytes, where: "device", device: at });
  };
  const shared = (at: number, name: string) => rows.push({ name, bytes: 0, where: "device", device: at });
  const constants = new Set<string>(), used = new Set<number>();
  for (const [name, spec] of Object.entries(replicas)) {
    const ranks = held[name]!, label = spec.home ? spec.model : name;
    devicesOf(spec.mesh, cluster).forEach((at, rank) => {
      const { params, moments, base } = ranks[rank]!;
      used.add(at);
      if (base !== undefined) shared(at, `${label} params, those of ${base}`);
      if (spec.residence === "device") device(at, `${label} params`, params);
      if (!constants.has(`${at} ${spec.model}`)) {
        constants.add(`${at} ${spec.model}`);
        device(at, `${spec.model} constants`, models[spec.model]!.constants);
      }
      if (spec.residence === "device") device(at, `${label} moments`, moments);
      else if (spec.home) {
        rows.push({ name: `${label} offloaded`, bytes: params + moments, where: "host", device: at });
      }
    });
  }
  const { kept, blocks } = callMemory(graphs);
  for (const at of [...kept.keys(), ...[...blocks.values()].flatMap((b) => [...b.keys()])]) used.add(at);
  for (const [at, own] of kept) for (const [name, bytes] of merged(own)) device(at, name, bytes);
  const tenants = [
    ...replicaTenants(schedules, cluster, (name, rank) => held[name]![rank]!),
    ...gradientTenants(graphs, schedules, held, cluster),
    ...callTenants(blocks, schedules),
  ];
  const pools = new Map(
    [...poolOf(tenants)].map(([at, { bytes, offsets }]) => {
      const parts = tenants.filter((t) => offsets.has(t.name))
        .map(({ name, first, bytes }) => ({ name, bytes: bytes(at - first) }));
      parts.sort((a, b) => b.bytes - a.bytes);
      rows.push({ name: "in turn", bytes, where: "device", device: at, parts });
      const places = parts.flatMap(({ name, bytes }): (readonly [string, Place])[] => {
        const offset = offsets.get(name)!, block = blocks.get(name)?.get(at);
        // Blocks of calls are taken apart into the names that the engine asks for.
        return block
          ? [...block.places].map(([n, p]) => [n, { offset: offset + p.offset, bytes: p.bytes }] as const)
          : [[name, { offset, bytes }] as const];
      });
      return [at, { bytes, places: new Map(places) }];
    }),
  );
  for (const [at, groups] of groupsByDevice(input)) device(at, "groups", groups * GROUP_BYTES);
  for (const at of used) device(at, "scratch", input.scratch);
  for (const h of input.host) rows.push({ ...h, where: "host" });
  rows.sort((a, b) => (a.device ?? Infinity) - (b.device ?? Infinity));
  return { rows, calls: kept, pools };
}

/** What a call needs on a device while it runs. */
interface Block {
  /** By the names of `compiler/uses.ts`. */
  readonly places: ReadonlyMap<string, Place>;
  readonly bytes: number;
}

/** What calls keep, by device and name, and what they need while they run, by call and device. */
function callMemory(graphs: readonly Compiled[]) {
  const kept = new Map<number, Map<string, number>>(),
    needed = new Map<string, Map<number, Map<string, number>>>();
  for (const graph of graphs) {
    for (const call of graph.graph.calls) {
      const strategy = graph.plan.assignments[call.id]?.strategy, devices = devicesOfCall(call.id, graph);
      for (const use of usesOf(call, graph.programs, strategy)) {
        const at = devices[use.rank]!,
          own = entry(kept, at, () => new Map()),
          passing = entry(entry(needed, call.id, () => new Map()), at, () => new Map());
        for (const [name, bytes, turn] of namedBytes(call.id, use)) {
          const into = turn ? passing : own;
          into.set(name, Math.max(into.get(name) ?? 0, bytes));
        }
      }
    }
  }
  const blocks = new Map([...needed].map(([id, byDevice]) => [
    id,
    new Map([...byDevice].map(([at, segments]): [number, Block] => [at, blockOf(segments)])),
  ]));
  return { kept, blocks };
}

/** Every memory of a use that is no model's: name, bytes, and whether it is needed only while the call runs. */
function* namedBytes(call: string, { memory, program }: Use): Generator<readonly [string, number, boolean]> {
  yield [arenaOf(call), program.segmentBytes.arena, true];
  for (const [segment, name] of Object.entries(memory) as [Segment, string][]) {
    yield [name, program.segmentBytes[segment], inTurn(segment)];
  }
}

function blockOf(segments: ReadonlyMap<string, number>): Block {
  const places = new Map<string, Place>();
  let top = 0;
  for (const [name, bytes] of segments) {
    places.set(name, { offset: top, bytes });
    top += align(bytes);
  }
  return { places, bytes: top };
}

function entry<K, V>(map: Map<K, V>, key: K, made: () => V): V {
  if (!map.has(key)) map.set(key, made());
  return map.get(key)!;
}

/** A call's block on one device; devices of a call need not hold the same. */
const callTenants = (
  blocks: ReadonlyMap<string, ReadonlyMap<number, Block>>,
  schedules: readonly Schedule[],
) =>
  [...blocks].map(([name, byDevice]): Tenant => {
    const first = Math.min(...byDevice.keys()), last = Math.max(...byDevice.keys());
    const bytes = (rank: number) => byDevice.get(first + rank)?.bytes ?? 0;
    return { name, first, devices: last - first + 1, bytes, spans: schedules.map((s) => callSpan(s, name)) };
  });

const gradientTenants = (
  graphs: readonly Compiled[],
  schedules: readonly Schedule[],
  held: Readonly<Record<Replica, readonly Held[]>>,
  cluster: Cluster,
) =>
  Object.entries(schedules[0]!.replicas).filter(([, spec]) => spec.home).map(([name, spec]) => {
    const trains = (id: string) =>
      graphs.some(({ graph }) => graph.calls.some((c) => c.id === id && c.kind === "train"));
    return gradientTenant(name, spec, schedules, trains, cluster, (rank) => held[name]![rank]!.grads);
  });

/** What a rank leaves in a group for the others to read, twice: `STAGE_BYTES` of cuda/common/group.h. */
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
      /( #\d+)?( prefill| decode| copy)? (inputs|outputs|state)$/,
      (_, __, part, what) => what === "state" ? " state" : `${part ?? ""} inputs and outputs`,
    );
    rows.set(row, (rows.get(row) ?? 0) + bytes);
  }
  return rows;
}
