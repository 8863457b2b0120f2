/** Lowers plans to what devices do, in order: load, reallocate, run, free; and what each of these waits for. */
import { devicesOf } from "../ir/mesh.ts";
import type { Call, CallGraph, ModelFunctionCall } from "../ir/graph.ts";
import { unrolled } from "../ir/groups.ts";
import type { Action, Instruction, Replica, ReplicaSpec, Schedule } from "../ir/plan.ts";
import { type Placed, type Replicas, replicasOf } from "./replicas.ts";

/**
 * One schedule for each graph; all have the same replicas, and the first one's prologue loads them. Fields are not freed: a
 * step hands all of them to metrics, samples and the caller of `steps`.
 *
 * @example
 * ```ts
 * import { type Placed } from "./replicas.ts";
 * import { schedulesOf } from "./schedule.ts";
 *
 * const instructions = (placed: Placed) => schedulesOf([placed])[0]!.step.length;
 * ```
 */
export function schedulesOf(graphs: readonly Placed[]): Schedule[] {
  const replicas = replicasOf(graphs), { devicesPerNode } = graphs[0]!.plan.cluster;
  const devices = (name: Replica) => devicesOf(replicas.specs[name]!.mesh, { devicesPerNode });
  const prologue = prologueOf(replicas.specs);
  // An average may be looked at by the evaluation only, and follows its model all the same.
  const models: CallGraph["models"] = Object.assign({}, ...graphs.map(({ graph }) => graph.models));
  return graphs.map((placed) => ({
    version: 1,
    replicas: replicas.specs,
    prologue: withWaits(prologue, placed, devices),
    step: withWaits(stepOf(placed, replicas, models), placed, devices),
  }));
}

/** Homes are loaded; copies that keep their memory begin as their home does. */
function prologueOf(specs: Readonly<Record<Replica, ReplicaSpec>>): Action[] {
  const names = Object.keys(specs), homes = names.filter((name) => specs[name]!.home);
  return [
    ...homes.map((replica): Action => ({ op: "load", replica, model: specs[replica]!.model })),
    ...names.filter((name) => specs[name]!.lag > 0).map((to): Action => ({
      op: "reallocate",
      from: `${specs[to]!.model}@0`,
      to,
      weight: 1,
    })),
  ];
}

function stepOf(placed: Placed, { specs, of }: Replicas, models: CallGraph["models"]): Action[] {
  const { graph } = placed, actions: Action[] = [];
  const present = new Set(Object.keys(specs).filter((name) => specs[name]!.residence === "device"));
  /** Homes in the pool that are trained, by the last action that does. */
  const trained = new Map<Replica, number>();
  /** Emits what makes a replica usable now. */
  const need = (name: Replica): void => {
    if (present.has(name)) return;
    present.add(name);
    if (specs[name]!.home) actions.push({ op: "fetch", replica: name, part: "params" });
    else {
      const home = `${specs[name]!.model}@0`;
      need(home);
      actions.push({ op: "reallocate", from: home, to: name, weight: 1 });
    }
  };
  const order = unrolled(graph.calls);
  for (const [i, call] of order.entries()) {
    const replica = "model" in call ? of(placed, call) : null;
    if (replica !== null) need(replica);
    if (call.kind === "train" && order.findIndex((c) => c.kind === "train" && c.model === call.model) === i) {
      // The weights of the next step's generation, as they are before this step trains them: a step that is given up before it
      // trains has left them alone.
      for (const [name, { model, lag }] of Object.entries(specs)) {
        if (model === call.model && lag > 0) {
          actions.push({ op: "reallocate", from: replica!, to: name, weight: 1 });
        }
      }
    }
    if (call.kind === "train" && specs[replica!]!.residence === "pool") {
      if (!trained.has(replica!)) actions.push({ op: "fetch", replica: replica!, part: "moments" });
      trained.set(replica!, actions.length);
    }
    actions.push({ op: "run", call: call.id, replica });
    if (call.kind !== "train") continue;
    for (const name of present) {
      const spec = specs[name]!;
      if (spec.model === call.model && !spec.home && spec.lag === 0) present.delete(name);
    }
    for (const [model, { ema }] of Object.entries(models)) {
      if (ema?.of !== call.model || !specs[`${model}@0`]) continue;
      need(`${model}@0`);
      actions.push({ op: "reallocate", from: replica!, to: `${model}@0`, weight: ema.eta });
      for (const name of present) {
        if (specs[name]!.model === model && !specs[name]!.home) present.delete(name);
      }
    }
  }
  return withFrees(actions, specs, trained);
}

/** Behind the last use of every replica that lives in the pool, and of its optimizer states, what gives their memory back. */
function withFrees(
  actions: readonly Action[],
  specs: Readonly<Record<Replica, ReplicaSpec>>,
  trains: ReadonlyMap<Replica, number>,
): Action[] {
  const last = new Map<Replica, number>();
  actions.forEach((a, i) => replicasIn(a).forEach((name) => last.set(name, i)));
  const at = (all: ReadonlyMap<Replica, number>, i: number) =>
    [...all].flatMap(([name, j]) => j === i && specs[name]!.residence === "pool" ? [name] : []);
  return actions.flatMap((a, i) => [
    a,
    ...at(trains, i).map((replica): Action => ({ op: "offload", replica, part: "moments" })),
    ...at(last, i).map((replica): Action =>
      specs[replica]!.home ? { op: "offload", replica, part: "params" } : { op: "free", replica }
    ),
  ]);
}

function replicasIn(a: Action): readonly Replica[] {
  if (a.op === "reallocate") return [a.from, a.to];
  return a.replica === null ? [] : [a.replica];
}

/** What an action reads and changes; two that touch one thing are ordered unless both only read it. */
interface Touches {
  readonly reads: readonly string[];
  readonly writes: readonly string[];
  readonly devices: readonly number[];
}

function touches(a: Action, placed: Placed, devices: (name: Replica) => readonly number[]): Touches {
  const own = (name: Replica) => `replica ${name}`, moments = (name: Replica) => `moments ${name}`;
  switch (a.op) {
    case "fetch":
    case "offload": {
      const writes = [(a.part === "params" ? own : moments)(a.replica)];
      return { reads: [], writes, devices: devices(a.replica) };
    }
    case "load":
    case "free":
      return { reads: [], writes: [own(a.replica)], devices: devices(a.replica) };
    case "reallocate":
      // Receivers copy; the senders' devices go on with whatever leaves these weights as they are.
      return { reads: [own(a.from)], writes: [own(a.to)], devices: devices(a.to) };
    case "run": {
      const call = placed.graph.calls.find((c) => c.id === a.call)!, of = (f: string) => `field ${f}`;
      const replica = a.replica === null ? [] : [own(a.replica)], trains = call.kind === "train";
      const { reads, writes } = states(call);
      return {
        reads: [...Object.values(call.reads).map(of), ...reads, ...(trains ? [] : replica)],
        writes: [
          ...written(call, placed.graph).map(of),
          ...writes,
          ...(trains ? [...replica, moments(a.replica!)] : []),
        ],
        devices: a.replica !== null ? devices(a.replica) : computeDevices(call, placed, devices),
      };
    }
  }
}

/** Fields that a call writes; one that chooses among samples or prompts changes all that there are. */
function written(call: Call, { source, calls }: CallGraph): readonly string[] {
  if (call.kind !== "select" && call.kind !== "refill") return Object.values(call.writes);
  const before = calls.slice(0, calls.indexOf(call));
  return [...Object.keys(source.fields), ...before.flatMap((c) => Object.values(c.writes))];
}

/** States that a call reads and writes: every call of a step reads what the step began with, so they order steps only. */
function states(call: Call): { readonly reads: string[]; readonly writes: string[] } {
  const of = (name: string) => `state ${name}`,
    expr = call.kind === "compute" ? call.expr : call.kind === "train" ? call.loss : null;
  const read = expr?.ops.flatMap((op) => op.op === "input" && op.from === "state" ? [of(op.field)] : []) ??
    [];
  return { reads: read, writes: call.kind === "compute" ? Object.keys(call.states).map(of) : [] };
}

/** A compute call runs on the first device of the model that uses what it makes; a score on the host. */
function computeDevices(call: Call, placed: Placed, devices: (name: Replica) => readonly number[]): number[] {
  if (call.kind !== "compute") return [];
  const made = new Set(Object.values(call.writes)), { graph, plan } = placed;
  const reads = (c: Call) => Object.values(c.reads).some((field) => made.has(field));
  // What other arithmetic makes of it counts as well: calls are in the order of their fields.
  for (const c of graph.calls) {
    if (c.kind === "compute" && reads(c)) Object.values(c.writes).forEach((field) => made.add(field));
  }
  const user = graph.calls.find((c): c is ModelFunctionCall => "model" in c && reads(c));
  if (!user) return [devices(`${Object.keys(graph.models)[0]!}@0`)[0] ?? 0];
  return devicesOf(plan.assignments[user.id]!.mesh, plan.cluster).slice(0, 1);
}

/** What two actions are compared by: names as numbers, those within a step and those from one step to the next. */
interface Compared {
  readonly reads: readonly number[];
  readonly writes: readonly number[];
  readonly devices: readonly number[];
}

/** Fields are a step's own; states order the steps; devices and replicas both. */
function compared(all: readonly Touches[], across: boolean): Compared[] {
  const numbers = new Map<string, number>(), skip = across ? "field " : "state ";
  const numbered = (names: readonly string[]): number[] =>
    names.filter((n) => !n.startsWith(skip)).map((n) => {
      if (!numbers.has(n)) numbers.set(n, numbers.size);
      return numbers.get(n)!;
    });
  return all.map((t) => ({ reads: numbered(t.reads), writes: numbered(t.writes), devices: t.devices }));
}

const shares = (a: readonly number[], b: readonly number[]): boolean => a.some((x) => b.includes(x));
const conflict = (a: Compared, b: Compared): boolean =>
  overlap(a.devices, b.devices) || shares(a.writes, b.writes) || shares(a.writes, b.reads) ||
  shares(a.reads, b.writes);

/** Adds what every action waits for: the last ones before it, in this step or the step before, that it conflicts with. */
function withWaits(
  actions: readonly Action[],
  placed: Placed,
  devices: (name: Replica) => readonly number[],
): Instruction[] {
  const all = actions.map((a) => touches(a, placed, devices));
  const inside = compared(all, false), across = compared(all, true);
  const ordered = inside.map((b, i) => inside.slice(0, i).map((a) => conflict(a, b)));
  /** Those that no later one of them waits for anyway. */
  const direct = (found: readonly number[]) =>
    found.filter((j) => !found.some((k) => k > j && ordered[k]![j]));
  return actions.map((a, i) => ({
    ...a,
    devices: all[i]!.devices,
    after: direct(ordered[i]!.flatMap((does, j) => does ? [j] : [])),
    afterPrevious: direct(across.flatMap((t, j) => conflict(t, across[i]!) ? [j] : [])),
  }));
}

/** Whether two meshes share a device: each is a range of neighbours. */
const overlap = (a: readonly number[], b: readonly number[]): boolean =>
  a.length > 0 && b.length > 0 && a[0]! <= b.at(-1)! && b[0]! <= a.at(-1)!;
