/** Devices that share processors: a call's own seconds, and a schedule in which everything that runs at once is slower. */
import type { Schedule } from "../ir/plan.ts";
import type { CallCost } from "./call_cost.ts";
import { MOST, SAME, type SimulatedSpan, type Simulation } from "./simulate.ts";

/**
 * A call as it is when only so many of its devices can be busy at once: no faster than all of its work over the processors,
 * nor than what the host does for all of its ranks, one after the other.
 *
 * @param capacity see `Profile.capacity`
 */
export function sharing(cost: CallCost, capacity: number | undefined): CallCost {
  if (capacity === undefined) return cost;
  const seconds = Math.max(cost.seconds, cost.host, (cost.work + cost.host) / capacity);
  return seconds === cost.seconds ? cost : { ...cost, seconds };
}

/** Devices that a call keeps busy, on average over its seconds. */
export const loadOf = ({ seconds, work, host }: CallCost): number =>
  seconds > 0 ? (work + host) / seconds : 0;

/**
 * As `simulate` in `simulate.ts`, and what runs at once shares the processors: while the loads of all that runs add up to more than the
 * capacity, everything is slower by that factor (processor sharing; Kleinrock 1967).
 *
 * @param seconds of every instruction of `schedule.step` when it runs alone
 * @param loads devices that each keeps busy
 */
export function simulateShared(
  { step: instructions }: Pick<Schedule, "step">,
  early: ReadonlySet<number>,
  seconds: readonly number[],
  loads: readonly number[],
  capacity: number,
): Simulation {
  const n = instructions.length, total = MOST * n;
  const begins = new Float64Array(total), ends = new Float64Array(total).fill(NaN);
  const left = Float64Array.from({ length: total }, (_, at) => seconds[at % n]!);
  const waiting = new Set(Array.from({ length: total }, (_, at) => at)), running = new Set<number>();
  const ended = (at: number) => !Number.isNaN(ends[at]!);
  /** Ends of steps; a step is released when the one before it has ended. */
  const released = [0], undone = new Array<number>(MOST).fill(n);
  const ready = (at: number): boolean => {
    const step = Math.floor(at / n), i = at % n, { after, afterPrevious } = instructions[i]!;
    // A step looks ahead by one: nothing of it begins before the step before has been released.
    if (released.length <= (early.has(i) ? step - 1 : step)) return false;
    return after.every((j) => ended(step * n + j)) &&
      (step === 0 || afterPrevious.every((j) => ended(at - i - n + j)));
  };
  let now = 0;
  const finish = (at: number): void => {
    ends[at] = now;
    running.delete(at);
    if (--undone[Math.floor(at / n)]! > 0) return;
    while (released.length <= MOST && undone[released.length - 1] === 0) released.push(now);
  };
  const spansOf = (step: number): SimulatedSpan[] =>
    instructions.map((_, i) => {
      const at = step * n + i, origin = released[step]!;
      return { begin: begins[at]! - origin, end: ends[at]! - origin };
    });
  let seen = 0, last = NaN;
  for (;;) {
    for (let changed = true; changed;) {
      changed = false;
      for (const at of waiting) {
        // A step that nobody has released yet, and all behind it.
        if (Math.floor(at / n) > released.length) break;
        if (!ready(at)) continue;
        waiting.delete(at);
        begins[at] = now;
        running.add(at);
        if (left[at] === 0) finish(at);
        changed = true;
      }
    }
    while (seen + 1 < released.length) {
      const period = released[seen + 1]! - released[seen]!;
      const steady = seen > 1 && Math.abs(period - last) <= SAME * Math.max(period, 1e-9);
      if (steady || seen + 1 === MOST) return { period, spans: spansOf(seen) };
      last = period;
      seen++;
    }
    let load = 0, next = Infinity;
    for (const at of running) {
      load += loads[at % n]!;
      next = Math.min(next, left[at]!);
    }
    if (next === Infinity) {
      throw new Error("Cannot simulate a schedule: its instructions wait for one another");
    }
    const slower = Math.max(1, load / capacity);
    now += next * slower;
    for (const at of [...running]) {
      left[at]! -= next;
      if (left[at]! <= 1e-15) finish(at);
    }
  }
}
