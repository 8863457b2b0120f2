/** For given meshes and strategies: the micro-batches, recomputation, ZeRO, pages and offload with which a plan fits soonest. */
import type { CostInput } from "./call_cost.ts";
import type { Candidate, Unit } from "./candidates.ts";
import { type Evaluator, homeOf } from "./evaluate.ts";
import type { Choice, Point } from "./space.ts";

/** Changes at most; every one takes a unit further down or a model to the host. */
const MOST = 40;

export class Fit {
  /** Candidates by unit, mesh and strategy, fastest first. */
  readonly #variants: readonly ReadonlyMap<string, readonly Candidate[]>[];
  readonly #models: readonly string[];

  constructor(
    readonly input: CostInput,
    readonly units: readonly Unit[],
    lists: readonly (readonly Candidate[])[],
    readonly evaluator: Pick<Evaluator, "fullest" | "reallocations">,
  ) {
    this.#variants = lists.map((list) =>
      new Map(
        [...Map.groupBy(list, keyOf)].map((
          [key, all],
        ) => [key, all.toSorted((a, b) => a.seconds - b.seconds)]),
      )
    );
    this.#models = [...new Set(units.map((u) => u.model))];
  }

  /** Candidates of a unit with this mesh and strategy, fastest first. */
  variants(unit: number, layout: Pick<Candidate, "mesh" | "strategy">): readonly Candidate[] {
    return this.#variants[unit]!.get(keyOf(layout)) ?? [];
  }

  /**
   * The point with the fastest variants, then made smaller step by step: always by what frees most bytes of the fullest device
   * for a second. It may still not fit.
   */
  of({ choices }: Point): Point {
    const fastest = choices.map((c, i): Choice => ({ ...c, candidate: this.variants(i, c.candidate)[0]! }));
    const { memoryBytes } = this.input.cluster;
    let now: Point = { choices: fastest, offloaded: [] };
    for (let step = 0; step < MOST; step++) {
      const { device, total } = this.evaluator.fullest(now), wanted = total - memoryBytes;
      if (wanted <= 0) break;
      let best: { point: Point; price: number } | null = null;
      for (const { point, seconds } of this.#smaller(now)) {
        const freed = total - this.evaluator.fullest(point, device).total;
        if (freed <= 0) continue;
        // More than is wanted is worth no more.
        const price = Math.max(0, seconds) / Math.min(freed, wanted);
        if (!best || price < best.price) best = { point, price };
      }
      if (!best) break;
      now = best.point;
    }
    return now;
  }

  /** Every change that may free bytes, and about what it costs. */
  *#smaller({ choices, offloaded }: Point): Generator<{ readonly point: Point; readonly seconds: number }> {
    for (const [i, { candidate, first }] of choices.entries()) {
      const list = this.variants(i, candidate);
      for (const next of list.slice(list.indexOf(candidate) + 1)) {
        const point = { choices: choices.with(i, { candidate: next, first }), offloaded };
        yield { point, seconds: next.seconds - candidate.seconds };
      }
    }
    for (const model of this.#models) {
      if (offloaded.includes(model)) continue;
      const { held } = choices[homeOf(this.units, model)]!.candidate;
      const bytes = Math.max(...held.map((h) => h.params + h.moments));
      yield {
        point: { choices, offloaded: [...offloaded, model].sort() },
        seconds: 2 * this.evaluator.reallocations.hostSeconds(bytes),
      };
    }
  }
}

const keyOf = ({ mesh, strategy: { dp, tp, pp } }: Pick<Candidate, "mesh" | "strategy">): string =>
  `${mesh.nodes},${mesh.devices},${dp},${tp},${pp}`;
