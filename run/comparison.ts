/** Held-out figures and responses before and after training, for the terminal and the report. */
import { type Column, shortNumber, table } from "../engine/table.ts";
import type { Estimate } from "../engine/stats.ts";
import type { EvaluationRecord, ReferenceFigures } from "./evaluation.ts";

export interface Comparison {
  readonly columns: readonly Column[];
  readonly rows: readonly (readonly string[])[];
}

/** Every figure that both evaluations have; `change` is in standard errors of the difference. */
export function compareFigures(before: EvaluationRecord, after: EvaluationRecord): Comparison {
  const estimate = (v: Estimate) => `${shortNumber(v.mean)} ± ${shortNumber(v.error)}`;
  const rows = Object.keys(before.fields).filter((k) => k in after.fields).map((k) => {
    const b = before.fields[k]!,
      a = after.fields[k]!,
      change = (a.mean - b.mean) / Math.hypot(a.error, b.error);
    return [
      k,
      estimate(b),
      estimate(a),
      Number.isFinite(change) ? `${change >= 0 ? "+" : ""}${change.toFixed(1)} σ` : "",
    ];
  });
  rows.push(["distinct-2", shortNumber(before.distinct2), shortNumber(after.distinct2), ""]);
  const reference = (label: string, of: (r: ReferenceFigures) => number) => {
    if (before.reference && after.reference) {
      rows.push([label, shortNumber(of(before.reference)), shortNumber(of(after.reference)), ""]);
    }
  };
  reference("KL to reference (k1), nats/token", (r) => r.klK1);
  reference("KL to reference (k3), nats/token", (r) => r.klK3);
  reference("reference model's loss, nats/token", (r) => r.loss);
  const right = (title: string): Column => ({ title, align: "right" });
  return {
    columns: [
      { title: `${after.sequences} held-out sequences` },
      right(titleOf(before)),
      right("after"),
      right("change"),
    ],
    rows,
  };
}

/** A resumed run that lost its first evaluation compares with where it went on. */
const titleOf = ({ step }: EvaluationRecord): string => step === 0 ? "before" : `after step ${step}`;

/** The same prompts answered before and after. */
export function compareResponses(
  before: EvaluationRecord,
  after: EvaluationRecord,
  count: number,
): Comparison {
  const flat = (text: string) => text.trim().replaceAll("\n", " / ");
  return {
    columns: [{ title: "prompt" }, { title: titleOf(before) }, { title: "after" }],
    rows: before.samples.slice(0, count).map((s, i) =>
      [s.prompt, s.response, after.samples[i]?.response ?? ""].map(flat)
    ),
  };
}

/** Characters of a response that a terminal shows. */
const SHOWN = 60;

/** Both as text: figures, then three responses side by side. */
export function printComparison(before: EvaluationRecord, after: EvaluationRecord): string {
  const figures = compareFigures(before, after), responses = compareResponses(before, after, 3);
  const cut = (text: string) => text.length > SHOWN ? `${text.slice(0, SHOWN - 1)}…` : text;
  return `${table(figures.columns, figures.rows)}\n\n${
    table(responses.columns, responses.rows.map((row) => row.map(cut)))
  }`;
}
