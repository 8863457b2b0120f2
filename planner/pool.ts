/** Memory in turn: what is needed for a part of a step only shares bytes with what is needed for another, as buffers do inside a program. */
import { placeInGaps } from "../compiler/placement.ts";
import { align } from "../ir/op.ts";
import type { Cluster, Instruction, Replica, ReplicaSpec, Schedule } from "../ir/plan.ts";

/** From the first to the last instruction of a step that something is needed by; null where none needs it. */
export type Span = { readonly start: number; readonly end: number } | null;

/** Something that has memory in turn, on neighbouring devices. */
export interface Tenant {
  readonly name: string;
  /** First of its devices. */
  readonly first: number;
  readonly devices: number;
  /** Bytes on a rank; 0 where it has none. */
  readonly bytes: (rank: number) => number;
  /** By schedule: the step's, the evaluation's. */
  readonly spans: readonly Span[];
}

export interface Pool {
  readonly bytes: number;
  /** Bytes from the pool's beginning. */
  readonly offsets: ReadonlyMap<string, number>;
}

/**
 * One pool for every device. A tenant has one place in it for all schedules, so two that are alive together in any of them
 * do not overlap.
 */
export function poolOf(tenants: readonly Tenant[]): Map<number, Pool> {
  const pools = new Map<number, Pool>();
  const devices = new Set(
    tenants.flatMap((t) => Array.from({ length: t.devices }, (_, rank) => t.first + rank)),
  );
  for (const device of devices) {
    const { here, placement: { offsets, top } } = placed(tenants, device);
    if (here.length) {
      pools.set(device, { bytes: top, offsets: new Map(here.map((t, i) => [t.name, offsets[i]!])) });
    }
  }
  return pools;
}

/** Bytes of one device's pool. */
export const poolBytes = (tenants: readonly Tenant[], device: number): number =>
  placed(tenants, device).placement.top;

/** Tenants of a device, and their places: the largest first. */
function placed(tenants: readonly Tenant[], device: number) {
  const here: Tenant[] = [], bytes: number[] = [];
  for (const tenant of tenants) {
    const rank = device - tenant.first, n = rank >= 0 && rank < tenant.devices ? tenant.bytes(rank) : 0;
    if (n === 0) continue;
    here.push(tenant);
    bytes.push(n);
  }
  const largestFirst = here.map((_, i) => i).sort((i, j) => bytes[j]! - bytes[i]! || i - j);
  const placement = placeInGaps(bytes, largestFirst, (i, j) => together(here[i]!.spans, here[j]!.spans));
  return { here, placement };
}

const together = (a: readonly Span[], b: readonly Span[]): boolean =>
  a.some((x, i) => {
    const y = b[i];
    return x && y && x.start <= y.end && y.start <= x.end;
  });

/** Copies that are no homes, homes that are offloaded, and the optimizer states of those, which only training needs. */
export function replicaTenants(
  schedules: readonly Schedule[],
  cluster: Pick<Cluster, "devicesPerNode">,
  held: (name: Replica, rank: number) => { readonly params: number; readonly moments: number },
): Tenant[] {
  return Object.entries(schedules[0]!.replicas).filter(([, spec]) => spec.residence === "pool")
    .flatMap(([name, spec]): Tenant[] => {
      const place = placeOf(spec, cluster), states = `${name} moments`;
      const params: Tenant = {
        name,
        ...place,
        bytes: (rank) => align(held(name, rank).params),
        spans: schedules.map((s) =>
          remembered(
            s,
            name,
            (a) => a.op === "reallocate" ? a.from === name || a.to === name : usesParams(a, name),
          )
        ),
      };
      const moments: Tenant = {
        name: states,
        ...place,
        bytes: (rank) => align(held(name, rank).moments),
        spans: schedules.map((s) =>
          remembered(s, states, (a) => "part" in a && a.part === "moments" && a.replica === name)
        ),
      };
      return spec.home ? [params, moments] : [params];
    });
}

const usesParams = (a: Exclude<Instruction, { readonly op: "reallocate" }>, name: Replica): boolean =>
  a.replica === name && !("part" in a && a.part === "moments");

/** Gradients of a home that is trained: from the first to the last call that trains it. */
export function gradientTenant(
  name: Replica,
  spec: ReplicaSpec,
  schedules: readonly Schedule[],
  trains: (call: string) => boolean,
  cluster: Pick<Cluster, "devicesPerNode">,
  bytes: (rank: number) => number,
): Tenant {
  const own = `${name} grads`;
  return {
    name: own,
    ...placeOf(spec, cluster),
    bytes: (rank) => align(bytes(rank)),
    spans: schedules.map((s) =>
      remembered(s, own, (a) => a.op === "run" && a.replica === name && trains(a.call))
    ),
  };
}

/** What a call needs while it runs. */
export const callSpan = (schedule: Schedule, call: string): Span =>
  remembered(schedule, call, (a) => a.op === "run" && a.call === call);

function placeOf({ mesh }: ReplicaSpec, { devicesPerNode }: Pick<Cluster, "devicesPerNode">) {
  return { first: mesh.node * devicesPerNode + mesh.device, devices: mesh.nodes * mesh.devices };
}

/** The search asks for the spans of one step's instructions over and over. */
const known = new WeakMap<Schedule["step"], Map<string, Span>>();

function remembered({ step }: Schedule, name: string, needs: (a: Instruction) => boolean): Span {
  let spans = known.get(step);
  if (!spans) known.set(step, spans = new Map());
  let span = spans.get(name);
  if (span === undefined) {
    const start = step.findIndex(needs);
    spans.set(name, span = start < 0 ? null : { start, end: step.findLastIndex(needs) });
  }
  return span;
}
