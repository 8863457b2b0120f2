/** Where chains of the search begin, beside the plans that people make. */
import type { Relaxed } from "./bound.ts";
import { placesOf } from "./candidates.ts";
import { type Best, energyOf, type Found } from "./energy.ts";
import type { Fit } from "./fit.ts";
import type { Point } from "./space.ts";

/** A point of what the bound chose for every unit: one after the other is put where it does least harm. */
export function placed(best: Best, fit: Fit, relaxed: Relaxed): Found {
  const { cluster, graph } = best.evaluator.input;
  const offloaded = Object.keys(graph.models).filter((model) =>
    relaxed.some((r, i) => r.offloaded && best.evaluator.units[i]!.model === model)
  ).sort();
  let now: Point = { choices: relaxed.map(({ candidate }) => ({ candidate, first: 0 })), offloaded };
  relaxed.forEach(({ candidate }, i) => {
    const points = placesOf(candidate.mesh, cluster).slice(0, PLACES).map((first): Point => {
      return { ...now, choices: now.choices.with(i, { candidate, first }) };
    });
    const energies = points.map((p) => energyOf(best.evaluator.about(p), cluster.memoryBytes));
    now = points[energies.indexOf(Math.min(...energies))]!;
  });
  best.see(now);
  return best.see(fit.of(now));
}
/** Places that are tried for each. */
const PLACES = 16;
