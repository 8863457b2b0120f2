/** What report.html says about a run: its logs, its plan and memory, and what made it. */
import { printStorage, storageOf } from "../compiler/models/storage.ts";
import { readLog, type SampleRecord, type StepRecord } from "../engine/metrics.ts";
import { type ReportTable, writeReport } from "../engine/report.ts";
import {
  operationTable,
  planTable,
  type ReallocationRow,
  reallocationTable,
} from "../engine/report_tables.ts";
import { shortBytes, shortNumber } from "../engine/table.ts";
import { printGpus } from "../ir/notation.ts";
import { printGraph } from "../ir/print.ts";
import { compareFigures, compareResponses } from "./comparison.ts";
import type { EvaluationRecord } from "./evaluation.ts";
import type { PlanRecord } from "./plan_watch.ts";
import type { Prediction } from "./prediction.ts";
import { overlaid, predictionTable } from "./predicted.ts";
import type { Machine } from "./machine.ts";
import type { Resolved } from "./resolve.ts";
import type { Session } from "./session.ts";

export async function writeRunReport(
  session: Session,
  o: Resolved,
  e: {
    readonly before: EvaluationRecord | null;
    readonly after: EvaluationRecord | null;
    readonly reallocations: readonly ReallocationRow[];
    /** What the last plan of the run promises. */
    readonly prediction: Prediction | null;
  },
): Promise<void> {
  const { graph, plan, sizes } = session.main, models = Object.values(session.models);
  const { timeline, engine: { devices } } = session, where = placeOf(o.machine, devices.all.length);
  const parameters = models.map((m) => {
    const count = session.engine.models[m.name]!.parameters.reduce(
      (n, p) => n + p.shape.reduce((a, b) => a * b, 1),
      0,
    );
    return `${m.name} ${shortNumber(count)} parameters`;
  });
  const steps = await readLog<StepRecord>(`${o.out}/metrics.jsonl`), { prediction } = e;
  const plans = await readLog<PlanRecord>(`${o.out}/plans.jsonl`);
  const operations = operationTable(devices.all.map((d) => d.profile()), devices.all[0]!.gpu !== null);
  const since = plans.findLast((p) => p.event === "plan" || p.event === "switch")?.step ?? 0;
  await writeReport(`${o.out}/report.html`, {
    name: session.workflow.name,
    subtitle: `${parameters.join(", ")} · ${sizes.sequences} sequences per step · ${where} · ${
      printStorage(storageOf(o.machine))
    }`,
    steps: withEvaluations(
      steps,
      await readLog<EvaluationRecord>(`${o.out}/evaluations.jsonl`),
    ),
    samples: await readLog<SampleRecord>(`${o.out}/samples.jsonl`),
    gantt: prediction ? overlaid(timeline.gantt(), prediction) : timeline.gantt(),
    tables: [
      ...evaluationTables(e),
      planTable(graph, plan),
      ...prediction ? predictionTable(steps.filter((s) => s.step > since), prediction) : [],
      ...e.reallocations.length ? [reallocationTable(e.reallocations)] : [],
      ...operations ? [operations] : [],
      memoryTableOf(session),
    ],
    texts: [
      ...plans.length
        ? [{ title: "Plans", text: plans.map((p) => `after step ${p.step}: ${p.line}`).join("\n") }]
        : [],
      { title: "Call graph", text: printGraph(graph) },
      {
        title: "Run",
        text: JSON.stringify({ steps: o.steps, seed: o.seed, out: o.out, digest: plan.graph }, null, 2),
      },
    ],
  });
}

/** "8 virtual devices with 1 CPU threads each", "4 devices, cuda:0x4". */
function placeOf({ devices: { gpus }, threads }: Machine, count: number): string {
  if (gpus) return `${count} ${count > 1 ? "devices" : "device"}, ${printGpus(gpus)}`;
  return count > 1 ? `${count} virtual devices with ${threads} CPU threads each` : `${threads} CPU threads`;
}

/** Metrics of every step, and held-out figures at the steps that have some; step 0 is before the first. */
export function withEvaluations(
  steps: readonly StepRecord[],
  evaluations: readonly EvaluationRecord[],
): readonly StepRecord[] {
  const merged = new Map<number, StepRecord>(steps.map((record) => [record.step, record]));
  for (const { step, fields, reward, reference } of evaluations) {
    const figures: Record<string, number> = { ...reference && { "evaluation/klK3": reference.klK3 } };
    for (const [field, { mean, error }] of Object.entries(fields)) {
      const name = `evaluation/${field === reward ? "reward" : field}`;
      figures[name] = mean;
      figures[`${name}Error`] = error;
    }
    merged.set(step, { ...merged.get(step), ...figures, step });
  }
  return [...merged.values()].sort((a, b) => a.step - b.step);
}

function evaluationTables(
  { before, after }: { readonly before: EvaluationRecord | null; readonly after: EvaluationRecord | null },
): ReportTable[] {
  if (!before || !after) return [];
  return [
    { title: "Held-out evaluation", ...compareFigures(before, after) },
    { title: "The same prompts before and after", ...compareResponses(before, after, 8) },
  ];
}

function memoryTableOf(session: Session): ReportTable {
  const total = session.table.reduce((n, r) => n + r.bytes, 0);
  return {
    title: "Memory",
    columns: [{ title: "what" }, { title: "where" }, { title: "bytes", align: "right" }],
    rows: [
      ...session.table.map((r) => [
        r.name,
        r.device === undefined ? r.where : `${r.where} ${r.device}`,
        shortBytes(r.bytes),
      ]),
      [
        "total",
        "",
        shortBytes(total),
      ],
    ],
  };
}
