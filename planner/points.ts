/** All points of a small space. */
import type { CostInput } from "./call_cost.ts";
import { type Candidate, placesOf, type Unit } from "./candidates.ts";
import type { Choice, Point } from "./space.ts";

/** Every point of the space, or null where there are more than `most`. */
export function everyPoint(
  { cluster }: CostInput,
  units: readonly Unit[],
  lists: readonly (readonly Candidate[])[],
  most: number,
): Iterable<Point> | null {
  const choices = lists.map((list) =>
    list.flatMap((candidate) =>
      placesOf(candidate.mesh, cluster).map((first): Choice => ({ candidate, first }))
    )
  );
  const models = [...new Set(units.map((u) => u.model))], offloads = 2 ** models.length;
  if (choices.reduce((n, c) => n * c.length, offloads) > most) return null;
  return points(choices, models);
}

function* points(choices: readonly (readonly Choice[])[], models: readonly string[]): Generator<Point> {
  const at = choices.map(() => 0);
  for (;;) {
    const chosen = choices.map((list, i) => list[at[i]!]!);
    for (let bits = 0; bits < 2 ** models.length; bits++) {
      yield { choices: chosen, offloaded: models.filter((_, i) => bits >> i & 1) };
    }
    let unit = 0;
    while (unit < at.length && ++at[unit]! === choices[unit]!.length) at[unit++] = 0;
    if (unit === at.length) return;
  }
}
