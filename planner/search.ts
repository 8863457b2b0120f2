/** The search for a plan: exhaustive where the space is small, else simulated annealing from every plan that people make. */
import { anneal } from "./anneal.ts";
import { type Baseline, baselines } from "./baselines.ts";
import { type Bound, lowerBound } from "./bound.ts";
import type { CostInput } from "./call_cost.ts";
import { type Candidate, Candidates, type SpaceOptions, type Unit, unitsOf } from "./candidates.ts";
import { Costs } from "./cost.ts";
import { Best, energyOf, type Found } from "./energy.ts";
import { Evaluator } from "./evaluate.ts";
import { Fit } from "./fit.ts";
import { Moves } from "./moves.ts";
import { everyPoint } from "./points.ts";
import { polish } from "./polish.ts";
import { Random } from "./random.ts";
import { placed } from "./starts.ts";
import type { Choice } from "./space.ts";

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
  /** Bytes that the fullest device lacks in the plan that lacks least; 0 when one fits. */
  readonly closest: number;
  /** Points whose seconds were worked out. */
  readonly evaluated: number;
  /** Every point of the space was looked at. */
  readonly exhaustive: boolean;
}

const DEFAULTS = { seed: 1, steps: 3000, chains: 3, enough: 0.01, exhaustive: 3000 } as const;
/** Points that are made of what the lower bound chose. */
const ROUNDED = 16;

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
    closest: best.closest,
    evaluated: best.evaluated,
    exhaustive,
  });
  if (lists.some((list) => list.length === 0)) return done([], true);
  const fit = new Fit(input, units, lists, evaluator), made = baselines(input, units, fit, best);
  const whole = everyPoint(input, units, lists, o.exhaustive);
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
  const energy = ({ evaluation }: Found) => energyOf(evaluation, input.cluster.memoryBytes);
  const rounded = relaxed.slice(-ROUNDED).map((choice) => placed(best, fit, choice));
  const starts = [...made.flatMap((b) => b.found ?? []), greedy, ...rounded].sort((a, b) =>
    energy(a) - energy(b)
  );
  let polished: Found | null = null;
  for (let chain = 0; chain < o.chains && !enough(); chain++) {
    const start = chain === 0
      ? starts[0]!
      : chain % 2
      ? starts[chain % starts.length]!
      : best.first ?? starts[0]!;
    const random = new Random(o.seed + chain), moves = new Moves(input, units, lists, random, fit);
    anneal(moves, best, start, { steps: Math.floor(o.steps / o.chains), random, enough });
    if (best.first && best.first !== polished) polish(input, units, lists, best, fit, best.first);
    polished = best.first;
  }
  return done(made, false);
}

const fastest = (list: readonly Candidate[]): Candidate =>
  list.reduce((a, b) => b.seconds < a.seconds ? b : a);
