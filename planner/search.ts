/** The search for a plan: exhaustive where the space is small, else simulated annealing from every plan that people make. */
import { type Baseline, baselines } from "./baselines.ts";
import { type Bound, lowerBound, type Relaxed } from "./bound.ts";
import type { CostInput } from "./call_cost.ts";
import { type Candidate, Candidates, placesOf, type SpaceOptions, type Unit, unitsOf } from "./candidates.ts";
import { Costs } from "./cost.ts";
import { Best, energyOf, type Found } from "./energy.ts";
import { Evaluator } from "./evaluate.ts";
import { Moves } from "./moves.ts";
import { polish } from "./polish.ts";
import { Random } from "./random.ts";
import type { Choice, Point } from "./space.ts";

export interface SearchOptions extends SpaceOptions {
  readonly seed?: number;
  /** Points that annealing looks at, over all chains. */
  readonly steps?: number;
  readonly chains?: number;
  /** Ends the search once the best plan is within this share of the lower bound. */
  readonly enough?: number;
  /** Spaces of at most so many points are searched through. */
  readonly exhaustive?: number;
}

/** What a search found. */
export interface SearchResult {
  /** Null when no plan fits. */
  readonly best: Found | null;
  /** The fastest plan with other meshes or strategies. */
  readonly runnerUp: Found | null;
  readonly baselines: readonly Baseline[];
  readonly bound: Bound;
  readonly evaluator: Evaluator;
  readonly candidates: Candidates;
  readonly units: readonly Unit[];
  readonly lists: readonly (readonly Candidate[])[];
  /** Points whose seconds were worked out. */
  readonly evaluated: number;
  /** Every point of the space was looked at. */
  readonly exhaustive: boolean;
}

const DEFAULTS = { seed: 1, steps: 6000, chains: 3, enough: 0.01, exhaustive: 3000 } as const;
/** A move that is worse by the usual difference is taken so often at first, and hardly ever at last. */
const FIRST = 0.5, LAST = 1 / 500;
/** Estimates of reallocations make a point look worse by no more than this. */
const NEAR = 1.005;

/** The best plan that is found; the same for the same input and seed on every machine. */
export function search(input: CostInput, options: SearchOptions = {}): SearchResult {
  const o = { ...DEFAULTS, ...options }, units = unitsOf(input), costs = new Costs(input);
  const candidates = new Candidates(costs, o), lists = units.map((u) => candidates.of(u));
  const evaluator = new Evaluator(input, units, costs), best = new Best(evaluator);
  const { relaxed, ...bound } = lowerBound(input, units, lists, evaluator);
  const done = (made: readonly Baseline[], exhaustive: boolean): SearchResult => ({
    best: best.first,
    runnerUp: best.second,
    baselines: made,
    bound,
    evaluator,
    candidates,
    units,
    lists,
    evaluated: best.evaluated,
    exhaustive,
  });
  if (lists.some((list) => list.length === 0)) return done([], true);
  const made = baselines(input, units, lists, best), whole = everyPoint(input, units, lists, o.exhaustive);
  if (whole) {
    for (const point of whole) {
      if (evaluator.least(point) < (best.first?.evaluation.period ?? Infinity)) best.see(point);
    }
    return done(made, true);
  }
  const enough = () => best.first !== null && best.first.evaluation.period <= bound.seconds * (1 + o.enough);
  const greedy = best.see({
    choices: lists.map((list): Choice => ({ candidate: fastest(list), first: 0 })),
    offloaded: [],
  });
  const rounded = relaxed.slice(-ROUNDED).map((choice) => placed(input, best, choice));
  const starts = [...made.flatMap((b) => b.found ?? []), greedy, ...rounded].sort((a, b) =>
    energy(input, a) - energy(input, b)
  );
  let polished: Found | null = null;
  for (let chain = 0; chain < o.chains && !enough(); chain++) {
    const start = chain === 0
      ? starts[0]!
      : chain % 2
      ? starts[chain % starts.length]!
      : best.first ?? starts[0]!;
    anneal(input, units, lists, best, start, {
      steps: Math.floor(o.steps / o.chains),
      seed: o.seed + chain,
      enough,
    });
  }
  return done(made, false);
}

/** Points that are made of what the lower bound chose. */
const ROUNDED = 16;

/** A point of what the bound chose for every unit: one after the other is put where it does least harm. */
function placed({ cluster, graph }: CostInput, best: Best, relaxed: Relaxed): Found {
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
  return best.see(now);
}
/** Places that are tried for each. */
const PLACES = 16;

const energy = ({ cluster }: CostInput, found: Found): number =>
  energyOf(found.evaluation, cluster.memoryBytes);
const fastest = (list: readonly Candidate[]): Candidate =>
  list.reduce((a, b) => b.seconds < a.seconds ? b : a);

interface Chain {
  readonly steps: number;
  readonly seed: number;
  readonly enough: () => boolean;
}

/** Metropolis with a falling temperature (Kirkpatrick et al. 1983), in units of the difference that a usual move makes. */
function anneal(
  input: CostInput,
  units: readonly Unit[],
  lists: readonly (readonly Candidate[])[],
  best: Best,
  start: Found,
  { steps, seed, enough }: Chain,
): void {
  const random = new Random(seed),
    moves = new Moves(input, units, lists, random),
    { memoryBytes } = input.cluster;
  const about = (point: Point): number => energyOf(best.evaluator.about(point), memoryBytes);
  let now: Point = start, energyNow = about(now);
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
