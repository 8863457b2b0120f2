/** What a plan promised beside what a run measured: call by call, and on one timeline. */
import type { StepRecord } from "../engine/metrics.ts";
import type { ReportTable } from "../engine/report.ts";
import { shortNumber } from "../engine/table.ts";
import type { Block, Gantt } from "../engine/timeline.ts";
import { median } from "./drift.ts";
import type { Prediction } from "./prediction.ts";

/**
 * The prediction on the measured timeline: each stretch of devices that work alike has a row below its devices, on which every
 * shown step is once more as it was promised, from the same begin, with what its calls took in truth. What of a step would have
 * gone on beyond the next one's begin is cut off.
 */
export function overlaid(measured: Gantt, { gantt }: Pick<Prediction, "gantt">): Gantt {
  if (!measured.rows.length) return measured;
  // The last predicted step is one among others; what of it began earlier is cut off.
  const { step, begin } = gantt.steps.at(-1)!;
  const plans = gantt.rows.map(({ label, blocks }) => ({
    last: lastDevice(label),
    plan: 1,
    row: {
      label: `plan ${label.replace("device ", "")}`,
      blocks: measured.steps.flatMap((shown, i) => {
        const until = (measured.steps[i + 1]?.begin ?? Infinity) - shown.begin;
        return blocks.filter((b) => b.step === step && b.begin - begin < until).map((b) => ({
          ...b,
          step: shown.step,
          detail: beside(b, measured, shown.step),
          predicted: true,
          begin: shown.begin + Math.max(0, b.begin - begin),
          end: shown.begin + Math.min(until, b.end - begin),
        }));
      }),
    },
  }));
  // Infinity less itself is no number: rows of the host are in the order that they have.
  const rows = [...measured.rows.map((row) => ({ row, last: lastDevice(row.label), plan: 0 })), ...plans]
    .sort((a, b) => a.last - b.last || a.plan - b.plan).map(({ row }) => row);
  return { ...measured, rows };
}

/** The last device of a row's label, "device 3 (2)" or "4-7"; beyond all of them for the host. */
const lastDevice = (label: string): number =>
  label.startsWith("host") ? Infinity : Number(/(\d+)(?: \(\d+\))?$/.exec(label)?.[1]);

/** "predicted 12 ms, measured 10 ms: +20 %"; a call takes from its first to its last block on any device. */
function beside({ name, begin, end }: Block, measured: Gantt, step: number): string {
  const own = measured.rows.flatMap((r) => r.blocks).filter((b) =>
    b.step === step && b.name === name && b.lane !== "transfer"
  );
  const predicted = `predicted ${shortNumber(end - begin)} ms`;
  if (!own.length) return predicted;
  const took = Math.max(...own.map((b) => b.end)) - Math.min(...own.map((b) => b.begin));
  const error = Math.round(100 * ((end - begin) / took - 1));
  return `${predicted}, measured ${shortNumber(took)} ms: ${error > 0 ? "+" : ""}${error} %`;
}

/** Predicted and measured seconds; of steps behind the first one, which is slower. */
export function predictionTable(
  steps: readonly StepRecord[],
  { seconds, calls }: Pick<Prediction, "seconds" | "calls">,
): ReportTable[] {
  const rows = Object.entries({ ...calls, step: seconds }).flatMap(([id, predicted]) => {
    const name = id === "step" ? "seconds" : `seconds/${id}`;
    const seen = steps.slice(steps.length > 1 ? 1 : 0).flatMap((s) =>
      typeof s[name] === "number" ? [s[name]] : []
    );
    if (!seen.length) return [];
    const measured = median(seen), error = `${(100 * (predicted / measured - 1)).toFixed(0)} %`;
    return [[id, shortNumber(predicted), shortNumber(measured), error]];
  });
  if (!rows.length) return [];
  const right = (title: string) => ({ title, align: "right" as const });
  return [{
    title: "Predicted and measured seconds",
    columns: [{ title: "call" }, right("predicted"), right("measured"), right("error")],
    rows,
  }];
}
