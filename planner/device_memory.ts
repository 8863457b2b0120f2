/** What devices hold under a point, from the byte tables of its programs: the sums of `memory.ts` without compiling anything. */
import { mayShare } from "../compiler/sharing.ts";
import type { ReplicaSpec, Schedule } from "../ir/plan.ts";
import type { CostInput } from "./call_cost.ts";
import type { Candidate, Unit } from "./candidates.ts";
import { callSpan, gradientTenant, poolBytes, replicaTenants, type Tenant } from "./pool.ts";
import { endOf, type Point } from "./space.ts";

/** Bytes of the fullest of some neighbouring devices that run the same stages. */
export interface DeviceBytes {
  /** First of them. */
  readonly device: number;
  /** Parameters and moments that stay from step to step. */
  readonly models: number;
  /** Inputs and outputs. */
  readonly calls: number;
  /** In turn: activations, caches, gradients, copies of models. */
  readonly pool: number;
  /** Rotary tables and kernel scratch. */
  readonly other: number;
  readonly total: number;
}

/**
 * Every stretch of devices between two places where some stage begins or ends.
 *
 * @param only these devices
 */
export function deviceBytes(
  input: CostInput,
  units: readonly Unit[],
  point: Point,
  schedule: Schedule,
  only?: readonly number[],
): DeviceBytes[] {
  const { cluster, scratchBytes = 0 } = input, devices = only ?? stretches(point);
  const tables = new Map<string, number>(),
    trained = new Set(units.flatMap((u) => u.calls.filter((c) => c.kind === "train").map((c) => c.id)));
  point.choices.forEach(({ candidate: { costs } }, i) => {
    const most = Math.max(...costs.flatMap((c) => c.stages.map((s) => s.constants))), { model } = units[i]!;
    tables.set(model, Math.max(tables.get(model) ?? 0, most));
  });
  const homes = new Map(Object.values(schedule.replicas).filter((r) => r.home).map((r) => [r.model, r]));
  const spots = Object.entries(schedule.replicas).map(([name, spec]) => ({
    name,
    spec,
    first: spec.mesh.node * cluster.devicesPerNode + spec.mesh.device,
    candidate: candidateOf(units, point, spec, cluster.devicesPerNode),
  }));
  const byName = new Map(spots.map((s) => [s.name, s]));
  const heldAt = ({ spec, candidate }: typeof spots[number], rank: number, device: number) => {
    const held = candidate.held[stageOf(candidate, rank)]!, home = homes.get(spec.model)!;
    const shares = !spec.home && mayShare(spec, home) &&
      samePlace(spec, home, rank, device, cluster.devicesPerNode);
    return { ...held, params: shares ? 0 : held.params };
  };
  const tenants = [
    ...replicaTenants([schedule], cluster, (name, rank) => {
      const spot = byName.get(name)!;
      return heldAt(spot, rank, spot.first + rank);
    }),
    ...spots.filter(({ spec, candidate }) => spec.home && candidate.held.some((h) => h.grads)).map((
      { name, spec, candidate },
    ) =>
      gradientTenant(
        name,
        spec,
        [schedule],
        (id) => trained.has(id),
        cluster,
        (rank) => candidate.held[stageOf(candidate, rank)]!.grads,
      )
    ),
    ...point.choices.flatMap(({ candidate, first }, i) =>
      candidate.costs.map(({ stages }, j): Tenant => {
        const name = units[i]!.calls[j]!.id, { dp, tp, pp } = candidate.strategy;
        return {
          name,
          first,
          devices: dp * tp * pp,
          bytes: (rank) => stages[stageOf(candidate, rank)]!.turn,
          spans: [callSpan(schedule, name)],
        };
      })
    ),
  ];
  return devices.map((device) => {
    let models = 0, calls = 0;
    const present = new Set<string>();
    for (const spot of spots) {
      const rank = device - spot.first;
      if (rank < 0 || rank >= spot.spec.mesh.nodes * spot.spec.mesh.devices) continue;
      const { params, moments } = heldAt(spot, rank, device), { home, residence } = spot.spec;
      if (residence === "device") models += params + (home ? moments : 0);
      present.add(spot.spec.model);
    }
    point.choices.forEach((choice, i) => {
      if (device < choice.first || device >= endOf(choice)) return;
      const stage = stageOf(choice.candidate, device - choice.first), { model } = units[i]!;
      for (const cost of choice.candidate.costs) {
        calls += cost.stages[stage]!.own;
        present.add(model);
      }
    });
    const other = scratchBytes + [...present].reduce((n, model) => n + tables.get(model)!, 0),
      pool = poolBytes(tenants, device);
    return { device, models, calls, pool, other, total: models + calls + pool + other };
  });
}

/** First devices of stretches that run the same stages. */
function stretches({ choices }: Point): number[] {
  const cuts = new Set<number>();
  for (const choice of choices) {
    const { dp, tp } = choice.candidate.strategy;
    for (let at = choice.first; at < endOf(choice); at += dp * tp) cuts.add(at);
    cuts.add(endOf(choice));
  }
  const last = Math.max(...cuts);
  return [...cuts].filter((d) => d < last).sort((a, b) => a - b);
}

const stageOf = ({ strategy: { dp, tp } }: Pick<Candidate, "strategy">, rank: number): number =>
  Math.floor(rank / (dp * tp));

/** The candidate that has a replica's layout; a home's is the one that trains it. */
function candidateOf(units: readonly Unit[], { choices }: Point, spec: ReplicaSpec, each: number): Candidate {
  const same = units.flatMap((u, i) => {
    const { candidate, first } = choices[i]!, { mesh, strategy: s } = candidate;
    const fits = u.model === spec.model && first === spec.mesh.node * each + spec.mesh.device &&
      mesh.nodes === spec.mesh.nodes && mesh.devices === spec.mesh.devices && s.dp === spec.strategy.dp &&
      s.tp === spec.strategy.tp && s.pp === spec.strategy.pp;
    return fits ? [{ candidate, trains: u.calls[0]!.kind === "train" }] : [];
  });
  return ((spec.home ? same.find((s) => s.trains) : undefined) ?? same[0]!).candidate;
}

/** Whether a rank has the very piece of the model that the home has on its device. */
function samePlace(
  spec: ReplicaSpec,
  home: ReplicaSpec,
  rank: number,
  device: number,
  devicesPerNode: number,
): boolean {
  const { tp, pp } = spec.strategy, there = device - home.mesh.node * devicesPerNode - home.mesh.device;
  if (there < 0 || there >= home.mesh.nodes * home.mesh.devices) return false;
  return tp === home.strategy.tp && pp === home.strategy.pp && rank % tp === there % tp &&
    stageOf(spec, rank) === stageOf(home, there);
}
