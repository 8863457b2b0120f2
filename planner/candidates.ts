/** Every way in which a call may run: mesh, dp × tp × pp, micro-batches, recomputation, ZeRO, share of the KV pages. */
import { layoutViolations } from "../compiler/layout.ts";
import { type HeldBytes, heldBytes } from "../compiler/sharing.ts";
import { together } from "../compiler/sizes.ts";
import type { ModelFunctionCall } from "../ir/graph.ts";
import { type Cluster, type ParallelStrategy, RECOMPUTE } from "../ir/plan.ts";
import type { CallCost, CallLayout, CostInput } from "./call_cost.ts";
import type { Costs } from "./cost.ts";
import type { MeshShape } from "./groups.ts";

/** Calls that have one layout: a model's train calls, or a single call. */
export interface Unit {
  /** The first call's. */
  readonly id: string;
  readonly model: string;
  readonly calls: readonly ModelFunctionCall[];
}

/** One way for a unit to run, wherever its mesh is. */
export interface Candidate extends CallLayout {
  /** By call of the unit. */
  readonly costs: readonly CallCost[];
  /** Of all of them. */
  readonly seconds: number;
  /** The model's own bytes on a rank of every stage; gradients and moments only where the unit trains. */
  readonly held: readonly HeldBytes[];
  /** Most bytes of a device that runs nothing else. */
  readonly bytes: number;
}

/** What the space is limited to; see docs/planner.md. */
export interface SpaceOptions {
  /** Most micro-batch sizes that are tried for each layout. */
  readonly microBatches?: number;
}

/** Tokens of micro-batches: more than the last make products no faster. */
const WIDTHS = [2048, 8192, 512];
/** Shares of the KV pages that all slots could use: each three quarters of the one before. */
export const PAGES = [1, 0.75, 0.56, 0.42, 0.32, 0.24, 0.18, 0.13];
/** Whole-node meshes of every size up to so many nodes; beyond, powers of two and eighths of the cluster. */
const EVERY = 16;

/** The units of a graph in its order. */
export function unitsOf({ graph }: Pick<CostInput, "graph">): Unit[] {
  const units: { id: string; model: string; calls: ModelFunctionCall[] }[] = [];
  for (const call of graph.calls) {
    if (!("model" in call)) continue;
    const same = units.find((u) => u.model === call.model && u.calls[0]!.kind === "train");
    if (call.kind === "train" && same) same.calls.push(call);
    else units.push({ id: call.id, model: call.model, calls: [call] });
  }
  return units;
}

/** Shapes of meshes: equal parts of a node, then whole nodes. */
export function meshShapes(
  { nodes, devicesPerNode }: Pick<Cluster, "nodes" | "devicesPerNode">,
): MeshShape[] {
  const inside = divisors(devicesPerNode).map((devices): MeshShape => ({ nodes: 1, devices }));
  const several = Array.from({ length: nodes }, (_, i) => i + 1).filter((n) =>
    n > 1 && (nodes <= EVERY || (n & (n - 1)) === 0 || n % Math.ceil(nodes / 8) === 0)
  );
  return [...inside, ...several.map((n): MeshShape => ({ nodes: n, devices: devicesPerNode }))];
}

/** First devices of the places that a mesh of this shape may have. */
export function placesOf(
  shape: MeshShape,
  { nodes, devicesPerNode }: Pick<Cluster, "nodes" | "devicesPerNode">,
): number[] {
  if (shape.devices < devicesPerNode) {
    return Array.from({ length: nodes * devicesPerNode / shape.devices }, (_, i) => i * shape.devices);
  }
  const places = Array.from({ length: nodes - shape.nodes + 1 }, (_, i) => i * devicesPerNode);
  const grain = nodes <= EVERY ? 1 : Math.max(1, Math.min(shape.nodes, Math.ceil(nodes / 8)));
  return places.filter((_, i) => i % grain === 0 || i === nodes - shape.nodes);
}

const divisors = (n: number): number[] =>
  Array.from({ length: n }, (_, i) => i + 1).filter((d) => n % d === 0);

/** All dp × tp × pp of so many devices; tensor parallelism stays inside a node. */
export function strategiesOf({ nodes, devices }: MeshShape): ParallelStrategy[] {
  const all = nodes * devices;
  return divisors(devices).flatMap((tp) =>
    divisors(all / tp).map((pp): ParallelStrategy => ({ dp: all / tp / pp, tp, pp }))
  );
}

/**
 * Micro-batches: narrow, usual and wide ones, and the largest that keeps a pipeline full; in powers of two of what has to be
 * together, so that many layouts share programs.
 */
function microBatchesOf(
  unit: Unit,
  { workload: { sizes } }: CostInput,
  { dp, pp }: ParallelStrategy,
  most: number,
): number[] {
  const { kind } = unit.calls[0]!,
    least = Math.max(...unit.calls.map((c) => together(c, sizes.group))) * sizes.longest;
  if (kind === "generate") return [Math.max(least, Math.min(4096, sizes.sequences * sizes.longest))];
  const parts = Math.max(...unit.calls.map((c) => c.kind === "train" ? c.minibatches : 1));
  const share = Math.ceil(sizes.sequences / dp / parts) * sizes.longest,
    powers = (n: number) => Math.max(0, Math.log2(n / least));
  const full = pp > 1 ? Math.floor(powers(share / pp / 2)) : 0, top = Math.ceil(powers(share));
  const wanted = WIDTHS.map((n) => Math.min(top, Math.round(powers(n)))),
    all = pp > 1 ? [full, ...wanted.filter((n) => n < full)] : wanted;
  return [...new Set(all)].slice(0, most).map((n) => least * 2 ** n);
}

function variantsOf(
  unit: Unit,
  input: CostInput,
  strategy: ParallelStrategy,
  o: SpaceOptions,
): Omit<CallLayout, "mesh">[] {
  const { kind } = unit.calls[0]!, trains = kind === "train";
  // What has no vocabulary has no logits to keep.
  const lm = input.graph.models[unit.model]!.head === "lm",
    recompute = !trains ? ["nothing"] as const : lm ? RECOMPUTE : RECOMPUTE.filter((r) => r !== "logits");
  const zero = trains && strategy.dp > 1 ? [0, 1] as const : [0] as const;
  const pages = kind === "generate" ? PAGES : [1];
  return microBatchesOf(unit, input, strategy, o.microBatches ?? 3).flatMap((microBatchTokens) =>
    recompute.flatMap((r) =>
      zero.flatMap((z) =>
        pages.map((share) => ({ strategy, microBatchTokens, recompute: r, zero: z, pages: share }))
      )
    )
  );
}

/** Makes the candidates of units; what models hold is remembered. */
export class Candidates {
  readonly #held = new Map<string, readonly HeldBytes[]>();

  constructor(readonly costs: Costs, readonly options: SpaceOptions = {}) {}

  /**
   * Every candidate of a unit that a device has memory for, but for those that another one of the same mesh and strategy beats
   * in seconds and in every kind of bytes.
   */
  of(unit: Unit): Candidate[] {
    const { cluster } = this.costs.input;
    return meshShapes(cluster).flatMap((mesh) =>
      strategiesOf(mesh).filter((s) => this.#legal(unit, s)).flatMap((strategy) =>
        undominated(
          variantsOf(unit, this.costs.input, strategy, this.options)
            .map((variant) => this.candidate(unit, { ...variant, mesh }))
            .filter((c) => c.bytes <= cluster.memoryBytes),
        )
      )
    );
  }

  /** The candidate with the fewest bytes, whether it fits or not: what a refusal names. */
  smallest(unit: Unit): Candidate {
    const { cluster } = this.costs.input;
    const all = meshShapes(cluster).flatMap((mesh) =>
      strategiesOf(mesh).filter((s) => this.#legal(unit, s)).flatMap((strategy) => {
        const variants = variantsOf(unit, this.costs.input, strategy, { microBatches: 1 });
        return [this.candidate(unit, { ...variants.at(-1)!, mesh })];
      })
    );
    return all.reduce((a, b) => b.bytes < a.bytes ? b : a);
  }

  /** What a unit takes under a layout. */
  candidate(unit: Unit, layout: CallLayout): Candidate {
    const costs = unit.calls.map((call) => this.costs.of(call, layout)), held = this.held(unit, layout);
    const bytes = held.map((h, stage) =>
      h.params + h.grads + h.moments + Math.max(...costs.map((c) => c.stages[stage]!.turn)) +
      costs.reduce((n, c) => n + c.stages[stage]!.own, 0)
    );
    return {
      ...layout,
      costs,
      held,
      seconds: costs.reduce((n, c) => n + c.seconds, 0),
      bytes: Math.max(...bytes),
    };
  }

  /** Bytes of the model on the fullest rank of every stage. */
  held(
    { model, calls }: Unit,
    { strategy, zero }: Pick<CallLayout, "strategy" | "zero">,
  ): readonly HeldBytes[] {
    const trained = calls[0]!.kind === "train", { dp, tp, pp } = strategy;
    const key = `${model} ${trained} ${tp} ${pp}${trained && zero ? ` ${dp}` : ""}`,
      known = this.#held.get(key);
    if (known) return known;
    const { stages, shard } = this.costs.staged(calls[0]!, { strategy });
    const made = stages.map((stage) => heldBytes(shard(stage), { strategy, zero }, dp - 1, trained));
    this.#held.set(key, made);
    return made;
  }

  #legal(unit: Unit, strategy: ParallelStrategy): boolean {
    const { configs, workload: { sizes } } = this.costs.input;
    return strategy.dp <= sizes.sequences && !layoutViolations(configs[unit.model]!, strategy).length;
  }
}

/** Those of which no other one is as good in everything. */
function undominated(all: readonly Candidate[]): Candidate[] {
  const kinds = all.map((c) => [
    c.seconds,
    Math.max(...c.costs.flatMap((x) => x.stages.map((s) => s.turn))),
    Math.max(...c.held.map((h, i) => h.moments + c.costs.reduce((n, x) => n + x.stages[i]!.own, 0))),
  ]);
  return all.filter((_, i) =>
    !kinds.some((k, j) =>
      j !== i && k.every((x, n) => x <= kinds[i]![n]!) && (j < i || k.some((x, n) => x < kinds[i]![n]!))
    )
  );
}
