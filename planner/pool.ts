/** Memory in turn: what is needed for a part of a step only shares bytes with what is needed for another, as buffers do inside a program. */
import { placeInGaps } from "../compiler/placement.ts";
import { devicesOf } from "../ir/mesh.ts";
import { align } from "../ir/op.ts";
import type { Cluster, Replica, ReplicaSpec, Schedule } from "../ir/plan.ts";

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
 *
 * @param only these devices; all by default
 */
export function poolOf(tenants: readonly Tenant[], only?: readonly number[]): Map<number, Pool> {
  const pools = new Map<number, Pool>();
  const devices = only ??
    new Set(tenants.flatMap((t) => Array.from({ length: t.devices }, (_, rank) => t.first + rank)));
  for (const device of devices) {
    const here: { readonly tenant: Tenant; readonly bytes: number }[] = [];
    for (const tenant of tenants) {
      const rank = device - tenant.first, bytes = rank >= 0 && rank < tenant.devices ? tenant.bytes(rank) : 0;
      if (bytes) here.push({ tenant, bytes });
    }
    if (!here.length) continue;
    const largestFirst = here.map((_, i) => i).sort((i, j) => here[j]!.bytes - here[i]!.bytes || i - j);
    const { offsets, top } = placeInGaps(
      here.map((x) => x.bytes),
      largestFirst,
      (i, j) => together(here[i]!.tenant.spans, here[j]!.tenant.spans),
    );
    pools.set(device, { bytes: top, offsets: new Map(here.map((x, i) => [x.tenant.name, offsets[i]!])) });
  }
  return pools;
}

const together = (a: readonly Span[], b: readonly Span[]): boolean =>
  a.some((x, i) => {
    const y = b[i];
    return x && y && x.start <= y.end && y.start <= x.end;
  });

/** Copies that are no homes, and homes that are offloaded: parameters, then moments. */
export function replicaTenants(
  schedules: readonly Schedule[],
  cluster: Pick<Cluster, "devicesPerNode">,
  held: (name: Replica, rank: number) => { readonly params: number; readonly moments: number },
): Tenant[] {
  return Object.entries(schedules[0]!.replicas).filter(([, spec]) => spec.residence === "pool")
    .map(([name, spec]): Tenant => ({
      name,
      ...placeOf(spec, cluster),
      bytes: (rank) => {
        const { params, moments } = held(name, rank);
        return align(params) + (spec.home ? align(moments) : 0);
      },
      spans: schedules.map((s) =>
        spanOf(s, (a) => a.op === "reallocate" ? a.from === name || a.to === name : a.replica === name)
      ),
    }));
}

/** Gradients of a home that is trained: from the first to the last call that trains it. */
export function gradientTenant(
  name: Replica,
  spec: ReplicaSpec,
  schedules: readonly Schedule[],
  trains: (call: string) => boolean,
  cluster: Pick<Cluster, "devicesPerNode">,
  bytes: (rank: number) => number,
): Tenant {
  return {
    name: `${name} grads`,
    ...placeOf(spec, cluster),
    bytes: (rank) => align(bytes(rank)),
    spans: schedules.map((s) => spanOf(s, (a) => a.op === "run" && a.replica === name && trains(a.call))),
  };
}

/** What a call needs while it runs. */
export const callSpan = (schedule: Schedule, call: string): Span =>
  spanOf(schedule, (a) => a.op === "run" && a.call === call);

function placeOf({ mesh }: ReplicaSpec, cluster: Pick<Cluster, "devicesPerNode">) {
  const devices = devicesOf(mesh, cluster);
  return { first: devices[0]!, devices: devices.length };
}

function spanOf({ step }: Schedule, needs: (a: Schedule["step"][number]) => boolean): Span {
  const start = step.findIndex(needs);
  return start < 0 ? null : { start, end: step.findLastIndex(needs) };
}
