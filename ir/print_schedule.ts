/** A schedule as text: what happens, on which devices, behind what. */
import type { Instruction, Schedule } from "./plan.ts";
import { columns } from "./print.ts";

/**
 * One line per instruction with its number; `after` names instructions of the same step, `previous` those of the step before.
 *
 * @example
 * ```ts
 * import { printSchedule } from "./print_schedule.ts";
 * import type { Schedule } from "./plan.ts";
 *
 * const show = (schedule: Schedule) => console.log(printSchedule(schedule));
 * ```
 */
export function printSchedule(schedule: Schedule): string {
  const list = (numbers: readonly number[]) => numbers.join(" ");
  const rows = schedule.step.map((a, i) => [
    `${i}`,
    a.op,
    what(a),
    ranges(a.devices) || "host",
    a.after.length ? `after ${list(a.after)}` : "",
    a.afterPrevious.length ? `previous ${list(a.afterPrevious)}` : "",
  ]);
  return columns(rows, "") + "\n";
}

function what(a: Instruction): string {
  switch (a.op) {
    case "run":
      return `${a.call}${a.replica === null ? "" : ` on ${a.replica}`}`;
    case "reallocate":
      return `${a.from} → ${a.to}${a.weight === 1 ? "" : `, weight ${a.weight}`}`;
    case "fetch":
    case "offload":
      return a.part === "params" ? a.replica : `${a.replica} moments`;
    default:
      return a.replica;
  }
}

/** "0-3, 6". */
function ranges(numbers: readonly number[]): string {
  const runs: number[][] = [];
  for (const n of numbers) {
    const run = runs.at(-1);
    if (run?.at(-1) === n - 1) run.push(n);
    else runs.push([n]);
  }
  return runs.map((run) => run.length > 1 ? `${run[0]}-${run.at(-1)}` : `${run[0]}`).join(", ");
}
