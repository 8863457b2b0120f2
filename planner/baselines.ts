/** Plans that people make without a search: what ours is compared with, and where it starts. */
import type { Cluster, ParallelStrategy } from "../ir/plan.ts";
import type { CostInput } from "./call_cost.ts";
import type { Unit } from "./candidates.ts";
import { meshShapes, strategiesOf } from "./candidates.ts";
import type { Best, Found } from "./energy.ts";
import type { Fit } from "./fit.ts";
import type { MeshShape } from "./groups.ts";
import type { Choice } from "./space.ts";

/** A layout for every unit; sizes of micro-batches, recomputation, ZeRO and offload are chosen for it. */
export interface Baseline {
  readonly name: "megatron" | "data-parallel" | "symmetric" | "split";
  /** Null where no choice of them makes it fit, or it cannot be cut so. */
  readonly found: Found | null;
}

/** Strategies of each half that are combined. */
const LIKELY = 5;

/** A unit's mesh and strategy. */
interface Fixed {
  readonly mesh: MeshShape;
  readonly first: number;
  readonly strategy: ParallelStrategy;
}

/** All baselines of a graph. */
export function baselines(
  input: CostInput,
  units: readonly Unit[],
  fit: Fit,
  best: Best,
): Baseline[] {
  const all = wholeMesh(input.cluster), plans = new Plans(input, units, fit, best);
  const everywhere = (strategy: ParallelStrategy) =>
    plans.best(units.map(() => ({ mesh: all, first: 0, strategy })));
  const strategies = strategiesOf(all), seen = strategies.map(everywhere);
  const same = (s: ParallelStrategy) =>
    seen[strategies.findIndex((t) => t.dp === s.dp && t.tp === s.tp && t.pp === s.pp)] ?? null;
  return [
    { name: "megatron", found: same(megatron(input, units)) },
    { name: "data-parallel", found: same({ dp: all.nodes * all.devices, tp: 1, pp: 1 }) },
    { name: "symmetric", found: fastest(seen) },
    { name: "split", found: plans.split() },
  ];
}

const wholeMesh = ({ nodes, devicesPerNode }: Cluster): MeshShape => ({ nodes, devices: devicesPerNode });

/**
 * tp = as many devices of a node as there are heads for, pp = the largest number of stages up to the nodes that every model has
 * layers for, dp the rest; every call on all devices (the heuristic that Mei et al. 2024 compare with).
 */
export function megatron({ cluster, configs }: CostInput, units: readonly Unit[]): ParallelStrategy {
  const models = units.map((u) => configs[u.model]!),
    { nodes, devicesPerNode } = cluster,
    all = nodes * devicesPerNode;
  const fits = (tp: number) =>
    devicesPerNode % tp === 0 && models.every((m) => tp <= m.kvHeads || tp % m.kvHeads === 0);
  const tp = down(Math.min(devicesPerNode, ...models.map((m) => m.heads)), fits);
  const pp = down(
    Math.min(nodes, ...models.map((m) => m.layers)),
    (n) => (all / tp) % n === 0 && models.every((m) => m.layers % n === 0),
  );
  return { dp: all / tp / pp, tp, pp };
}

/** The largest number from n on down that will do; 1 always does. */
function down(n: number, fits: (n: number) => boolean): number {
  for (let i = n; i > 1; i--) if (fits(i)) return i;
  return 1;
}

const fastest = (all: readonly (Found | null)[]): Found | null =>
  all.reduce((a, b) => !a || (b && b.evaluation.period < a.evaluation.period) ? b : a, null);

/** Fills in what a baseline leaves open. */
export class Plans {
  constructor(
    readonly input: CostInput,
    readonly units: readonly Unit[],
    readonly fit: Fit,
    readonly seen: Best,
  ) {}

  /** A plan with these layouts that fits; null when there is none. */
  best(fixed: readonly Fixed[]): Found | null {
    const choices = fixed.flatMap((f, i): Choice[] => {
      const [candidate] = this.fit.variants(i, f);
      return candidate ? [{ candidate, first: f.first }] : [];
    });
    if (choices.length < fixed.length) return null;
    const found = this.seen.see(this.fit.of({ choices, offloaded: [] }));
    return found.evaluation.overflow > 0 ? null : found;
  }

  /** Models that write text on one half of the devices, those that judge it on the other (OpenRLHF, NeMo-Aligner). */
  split(): Found | null {
    const { nodes, devicesPerNode } = this.input.cluster, { graph } = this.input;
    const half: MeshShape | null = nodes > 1
      ? nodes % 2 === 0 ? { nodes: nodes / 2, devices: devicesPerNode } : null
      : devicesPerNode % 2 === 0
      ? { nodes: 1, devices: devicesPerNode / 2 }
      : null;
    if (
      !half ||
      !meshShapes(this.input.cluster).some((m) => m.nodes === half.nodes && m.devices === half.devices)
    ) return null;
    const writes = (u: Unit) => graph.models[u.model]!.head === "lm", size = half.nodes * half.devices;
    const [first, second] = [true, false].map((w) => this.#likely(half, (u) => writes(u) === w)) as [
      ParallelStrategy[],
      ParallelStrategy[],
    ];
    const all = first.flatMap((a) =>
      second.map((b) =>
        this.best(this.units.map((u): Fixed => {
          return { mesh: half, first: writes(u) ? 0 : size, strategy: writes(u) ? a : b };
        }))
      )
    );
    return fastest(all);
  }

  /** Strategies of a mesh under which some units take least, one after the other. */
  #likely(mesh: MeshShape, wanted: (u: Unit) => boolean): ParallelStrategy[] {
    const sum = (strategy: ParallelStrategy) =>
      this.units.reduce(
        (n, u, i) => n + (wanted(u) ? this.fit.variants(i, { mesh, strategy })[0]?.seconds ?? Infinity : 0),
        0,
      );
    return strategiesOf(mesh).map((s) => ({ s, seconds: sum(s) })).filter(({ seconds }) => seconds < Infinity)
      .sort((a, b) => a.seconds - b.seconds).slice(0, LIKELY).map(({ s }) => s);
  }
}
