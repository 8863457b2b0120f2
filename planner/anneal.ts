/** One chain of simulated annealing. */
import { type Best, energyOf } from "./energy.ts";
import type { Moves } from "./moves.ts";
import type { Random } from "./random.ts";
import type { Point } from "./space.ts";

/** A move that is worse by the usual difference is taken so often at first, and hardly ever at last. */
const FIRST = 0.5, LAST = 1 / 500;
/** Estimates of reallocations make a point look worse by no more than this. */
const NEAR = 1.005;

export interface Chain {
  readonly steps: number;
  readonly random: Random;
  /** Whether the search may end. */
  readonly enough: () => boolean;
}

/** Metropolis with a falling temperature (Kirkpatrick et al. 1983), in units of the difference that a usual move makes. */
export function anneal(moves: Moves, best: Best, start: Point, { steps, random, enough }: Chain): void {
  const { memoryBytes } = best.evaluator.input.cluster;
  const about = (point: Point): number => energyOf(best.evaluator.about(point), memoryBytes);
  let now = start, energyNow = about(now);
  const differences: number[] = [];
  for (let i = 0; i < Math.min(40, steps / 10); i++) {
    const difference = about(moves.from(now)) - energyNow;
    if (difference > 0) differences.push(difference);
  }
  const usual = differences.sort((a, b) => a - b)[Math.floor(differences.length / 4)] ?? 0.1 * energyNow;
  for (let step = 0; step < steps && !(step % 64 === 0 && enough()); step++) {
    const temperature = usual / -Math.log(FIRST) * LAST ** (step / steps);
    const limit = energyNow - temperature * Math.log(1 - random.next()), point = moves.from(now);
    const other = about(point);
    if (other <= limit) [now, energyNow] = [point, other];
    // The walk goes by estimates; what may be better than the best is worked out.
    if (other <= NEAR * (best.first?.evaluation.period ?? Infinity)) best.see(point);
  }
}
