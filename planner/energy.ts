/** How good a point is for the search, and the best points so far. */
import type { Evaluation, Evaluator } from "./evaluate.ts";
import type { Point } from "./space.ts";

/** A point with what it comes to. */
export interface Found extends Point {
  readonly evaluation: Evaluation;
}

/** A point without room costs so many times its seconds for every device's worth of bytes that is missing, and never wins. */
const NO_ROOM = 3;

/** What the search walks on: seconds, more where memory is short. */
export const energyOf = (
  { period, overflow }: Pick<Evaluation, "period" | "overflow">,
  memoryBytes: number,
): number => period * (overflow > 0 ? 1.02 + NO_ROOM * overflow / memoryBytes : 1);

/** Keeps the best point that fits, and the best of those with other meshes or strategies: the runner-up. */
export class Best {
  first: Found | null = null;
  second: Found | null = null;
  evaluated = 0;
  /** Least overflow of all points that were looked at. */
  closest = Infinity;

  constructor(readonly evaluator: Evaluator) {}

  /** Evaluates a point and takes notice of it. */
  see(point: Point): Found {
    this.evaluated++;
    const found = { ...point, evaluation: this.evaluator.of(point) };
    this.closest = Math.min(this.closest, found.evaluation.overflow);
    if (found.evaluation.overflow > 0) return found;
    const { period } = found.evaluation;
    if (!this.first || period < this.first.evaluation.period) {
      if (this.first && !alike(this.first, found)) this.second = this.first;
      this.first = found;
    } else if (!alike(this.first, found) && (!this.second || period < this.second.evaluation.period)) {
      this.second = found;
    }
    return found;
  }
}

/** The same meshes and strategies. */
export const alike = (a: Point, b: Point): boolean =>
  a.choices.every((x, i) => {
    const y = b.choices[i]!, s = x.candidate.strategy, t = y.candidate.strategy;
    return x.first === y.first && x.candidate.mesh.nodes === y.candidate.mesh.nodes &&
      x.candidate.mesh.devices === y.candidate.mesh.devices && s.dp === t.dp && s.tp === t.tp &&
      s.pp === t.pp;
  });
