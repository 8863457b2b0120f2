/** What a plan promised beside what a run measured: call by call, and on one timeline. */
import type { StepRecord } from "../engine/metrics.ts";
import type { ReportTable } from "../engine/report.ts";
import { shortNumber } from "../engine/table.ts";
import type { Gantt } from "../engine/timeline.ts";
import { median } from "./drift.ts";
import type { Prediction } from "./prediction.ts";

/** Rows of the prediction below those of the run: each shown step once more, from the same begin. */
export function overlaid(measured: Gantt, { gantt }: Pick<Prediction, "gantt">): Gantt {
  if (!measured.rows.length) return measured;
  // The last predicted step is one among others; what of it began earlier is cut off.
  const { step, begin } = gantt.steps.at(-1)!;
  const rows = gantt.rows.map(({ label, blocks }) => ({
    label: `plan ${label.replace("device ", "")}`,
    blocks: measured.steps.flatMap((shown) =>
      blocks.filter((b) => b.step === step).map((b) => ({
        ...b,
        step: shown.step,
        detail: "predicted",
        begin: shown.begin + Math.max(0, b.begin - begin),
        end: shown.begin + b.end - begin,
      }))
    ),
  }));
  return { ...measured, rows: [...measured.rows, ...rows] };
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
