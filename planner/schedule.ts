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
  /** Emits what makes a replica usable now. */
  const need = (name: Replica): void => {
    if (present.has(name)) return;
    present.add(name);
    if (specs[name]!.home) actions.push({ op: "fetch", replica: name });
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
  return withFrees(actions, specs);
}

/** Behind the last use of every replica that lives in the pool, what gives its memory back. */
function withFrees(actions: readonly Action[], specs: Readonly<Record<Replica, ReplicaSpec>>): Action[] {
  const last = new Map<Replica, number>();
  actions.forEach((a, i) => replicasIn(a).forEach((name) => last.set(name, i)));
  return actions.flatMap((a, i) => [
    a,
    ...[...last].filter(([name, at]) => at === i && specs[name]!.residence === "pool")
      .map(([replica]): Action => ({ op: specs[replica]!.home ? "offload" : "free", replica })),
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
  const own = (name: Replica) => `replica ${name}`;
  switch (a.op) {
    case "load":
    case "fetch":
    case "offload":
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
        writes: [...written(call, placed.graph).map(of), ...writes, ...(trains ? replica : [])],
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

const isState = (name: string): boolean => name.startsWith("state ");
const isField = (name: string): boolean => name.startsWith("field ");

/** Adds what every action waits for: the last ones before it, in this step or the step before, that it conflicts with. */
function withWaits(
  actions: readonly Action[],
  placed: Placed,
  devices: (name: Replica) => readonly number[],
): Instruction[] {
  const all = actions.map((a) => touches(a, placed, devices));
  const shares = (a: readonly string[], b: readonly string[]) => a.some((x) => b.includes(x));
  /** Fields are a step's own; states order the steps; devices and replicas both. */
  const conflicts = (earlier: Touches, later: Touches, across: boolean): boolean => {
    const keep = (names: readonly string[]) => names.filter((n) => across ? !isField(n) : !isState(n));
    const [w, r, W, R] = [earlier.writes, earlier.reads, later.writes, later.reads].map(keep) as [
      string[],
      string[],
      string[],
      string[],
    ];
    return shares(w, W) || shares(w, R) || shares(r, W) ||
      earlier.devices.some((d) => later.devices.includes(d));
  };
  return actions.map((a, i) => {
    const after = direct(
      all.slice(0, i).flatMap((t, j) => conflicts(t, all[i]!, false) ? [j] : []),
      all,
      conflicts,
    );
    const afterPrevious = direct(
      all.flatMap((t, j) => conflicts(t, all[i]!, true) ? [j] : []),
      all,
      conflicts,
    );
    return { ...a, devices: all[i]!.devices, after, afterPrevious };
  });
}

/** Those that no later one of them waits for anyway. */
const direct = (
  found: readonly number[],
  all: readonly Touches[],
  conflicts: (earlier: Touches, later: Touches, across: boolean) => boolean,
): number[] => found.filter((j) => !found.some((k) => k > j && conflicts(all[j]!, all[k]!, false)));
