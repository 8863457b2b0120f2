/** Descent: every unit in turn gets what suits it best while the others stay as they are, until nothing gets better. */
import type { CostInput } from "./call_cost.ts";
import { type Candidate, placesOf, type Unit } from "./candidates.ts";
import { type Best, energyOf, type Found } from "./energy.ts";
import type { Fit } from "./fit.ts";
import type { Choice, Point } from "./space.ts";

/** Points that one round looks at, at most: fast candidates of every mesh before slow ones. */
const MOST = 3000;
/** Pairs of choices of two units at most, over all units. */
const PAIRS = 8000;
/** Layouts of a unit for which all others are fitted anew. */
const REFITS = 40;

/** Candidates of a mesh that are tried beside those of another. */
const FASTEST = 2;

const sizeOf = ({ mesh }: Candidate): number => mesh.nodes * mesh.devices;

/** The point that the best one leads to. */
export function polish(
  { cluster }: CostInput,
  units: readonly Unit[],
  lists: readonly (readonly Candidate[])[],
  best: Best,
  fit: Fit,
  start: Found,
): void {
  const options = lists.map((list) => optionsOf(list, cluster, MOST / lists.length));
  const models = [...new Set(units.map((u) => u.model))];
  let now: Point = start, energy = energyOf(start.evaluation, cluster.memoryBytes), better = true;
  const consider = (point: Point): void => {
    const about = energyOf(best.evaluator.about(point), cluster.memoryBytes);
    if (about >= energy) return;
    const found = best.see(point), exact = energyOf(found.evaluation, cluster.memoryBytes);
    if (exact >= energy * (1 - 1e-9)) return;
    [now, energy, better] = [found, exact, true];
  };
  /** Two units at once, where there are few choices. */
  function pairs(): void {
    const all = options.reduce(
      (n, list, i) => n + list.length * options.slice(0, i).reduce((k, o) => k + o.length, 0),
      0,
    );
    if (all > PAIRS) return;
    options.forEach((first, i) =>
      options.slice(0, i).forEach((second, j) => {
        for (const a of first) {
          for (const b of second) {
            consider({ choices: now.choices.with(i, a).with(j, b), offloaded: now.offloaded });
          }
        }
      })
    );
  }
  /** Two units on devices of their own, which share all of them out: better only when both go there at once. */
  function apart(): void {
    const { nodes, devicesPerNode } = cluster, all = nodes * devicesPerNode;
    const fastest = lists.map((list) => {
      const byMesh = [...Map.groupBy(list, (c) => sizeOf(c)).entries()].filter(([size]) => size < all);
      return byMesh.map(([size, some]) => ({
        size,
        some: some.toSorted((a, b) => a.seconds - b.seconds).slice(0, FASTEST),
      })).sort((a, b) => b.size - a.size);
    });
    units.forEach((_, i) =>
      units.forEach((_, j) => {
        if (i === j) return;
        for (const low of fastest[i]!) {
          const high = fastest[j]!.find(({ size, some }) =>
            size <= all - low.size && placesOf(some[0]!.mesh, cluster).some((p) => p >= low.size)
          );
          if (!high) continue;
          const first = placesOf(high.some[0]!.mesh, cluster).find((p) => p >= low.size)!;
          for (const a of low.some) {
            for (const b of high.some) {
              const choices = now.choices.with(i, { candidate: a, first: 0 }).with(j, {
                candidate: b,
                first,
              });
              consider({ choices, offloaded: now.offloaded });
            }
          }
        }
      })
    );
  }
  while (better) {
    better = false;
    options.forEach((list, i) => {
      for (const choice of list) consider({ choices: now.choices.with(i, choice), offloaded: now.offloaded });
    });
    for (const model of models) {
      const there = now.offloaded.includes(model);
      const offloaded = there ? now.offloaded.filter((m) => m !== model) : [...now.offloaded, model].sort();
      consider({ choices: now.choices, offloaded });
    }
    if (better) continue;
    // Another mesh or strategy of one unit with everything else made to fit again.
    options.forEach((list, i) => {
      let tried = 0;
      for (const choice of list) {
        if (choice.candidate !== fit.variants(i, choice.candidate)[0] || tried >= REFITS) continue;
        const point = { choices: now.choices.with(i, choice), offloaded: [] };
        if (best.evaluator.least(point) >= energy) continue;
        tried++;
        consider(fit.of(point));
      }
    });
    if (!better) apart();
    if (!better) pairs();
  }
}

/** Choices by how fast they are among those of their mesh. */
function optionsOf(
  list: readonly Candidate[],
  cluster: CostInput["cluster"],
  most: number,
): Choice[] {
  const byMesh = [...Map.groupBy(list, (c) => `${c.mesh.nodes}x${c.mesh.devices}`).values()];
  const ranked = byMesh.flatMap((all) =>
    all.toSorted((a, b) => a.seconds - b.seconds).map((candidate, rank) => ({ candidate, rank }))
  );
  const choices = ranked.sort((a, b) => a.rank - b.rank).flatMap(({ candidate }) =>
    placesOf(candidate.mesh, cluster).map((first): Choice => ({ candidate, first }))
  );
  return choices.slice(0, most);
}
