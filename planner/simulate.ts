/** Runs a schedule in thought: when every instruction of a step begins and ends once steps follow one another evenly. */
import type { Schedule } from "../ir/plan.ts";

export interface SimulatedSpan {
  /** Seconds from the step's begin; before 0 for what began while the step before was running. */
  readonly begin: number;
  readonly end: number;
}

export interface Simulation {
  /** Seconds from one step's end to the next one's. */
  readonly period: number;
  /** By instruction, of the last step. */
  readonly spans: readonly SimulatedSpan[];
}

/** Steps until begins and ends repeat: lag reaches over one step, so two are enough; the rest is for sums of rounding. */
export const MOST = 12, SAME = 1e-9;

/**
 * An instruction begins when those that it waits for have ended, of its own step and of the one before; what is not early also
 * waits until all of the step before has ended (`ir/early.ts`), as the engine has it.
 *
 * @param seconds of every instruction of `schedule.step`
 */
export function simulate(
  schedule: Pick<Schedule, "step">,
  early: ReadonlySet<number>,
  seconds: readonly number[],
): Simulation {
  const n = schedule.step.length;
  let before = new Float64Array(n), released = 0, lookAhead = 0, lastPeriod = NaN;
  let begins = new Float64Array(n), ends = new Float64Array(n);
  for (let step = 0; step < MOST; step++) {
    begins = new Float64Array(n);
    ends = new Float64Array(n);
    let done = released;
    for (let i = 0; i < n; i++) {
      const { after, afterPrevious } = schedule.step[i]!;
      // A step looks ahead by one: nothing of it begins before the step before has been released.
      let begin = early.has(i) ? lookAhead : released;
      for (const j of after) begin = Math.max(begin, ends[j]!);
      if (step > 0) { for (const j of afterPrevious) begin = Math.max(begin, before[j]!); }
      begins[i] = begin;
      ends[i] = begin + seconds[i]!;
      done = Math.max(done, ends[i]!);
    }
    const period = done - released;
    const start = released;
    lookAhead = released;
    released = done;
    before = ends;
    if (step > 1 && Math.abs(period - lastPeriod) <= SAME * Math.max(period, 1e-9)) {
      return { period, spans: spansFrom(start, begins, ends) };
    }
    lastPeriod = period;
  }
  return { period: lastPeriod, spans: spansFrom(released - lastPeriod, begins, ends) };
}

const spansFrom = (start: number, begins: Float64Array, ends: Float64Array): SimulatedSpan[] =>
  [...begins].map((begin, i) => ({ begin: begin - start, end: ends[i]! - start }));
