/** Everything a run leaves behind or shows while it goes: logs, progress, tables, report. */
import { storageOf } from "../compiler/models/storage.ts";
import type { Batch } from "../engine/batch.ts";
import { createProgress, type Progress } from "../engine/progress.ts";
import { readLog, type SampleRecord, StepLog, type StepRecord } from "../engine/metrics.ts";
import type { StepHooks, StepResult } from "../engine/stage.ts";
import { shortNumber } from "../engine/table.ts";
import { printComparison } from "./comparison.ts";
import type { Evaluation, EvaluationRecord } from "./evaluation.ts";
import { inKernel } from "./kernel.ts";
import type { PlanRecord } from "./plan_watch.ts";
import { NotebookProgress } from "./notebook_progress.ts";
import type { Prediction } from "./prediction.ts";
import { ReallocationLog, reallocationMetrics } from "./reallocations.ts";
import { writeRunReport } from "./report.ts";
import type { Resolved } from "./resolve.ts";
import { sampleRecords } from "./samples.ts";
import type { Session } from "./session.ts";

export class Recorder {
  #stepStart = performance.now();
  #lastTrainSeconds = 1;
  #peak = 0;
  #reallocations = new ReallocationLog();

  private constructor(
    readonly session: Session,
    readonly options: Resolved,
    readonly progress: Progress | null,
    readonly metrics: StepLog<StepRecord>,
    readonly samples: StepLog<SampleRecord>,
    /** Null where the workflow has no evaluation. */
    readonly evaluations: StepLog<EvaluationRecord> | null,
    /** Null where nothing was planned. */
    readonly plans: StepLog<PlanRecord> | null,
    /** The evaluation before the first step, when a resumed run has made it already. */
    readonly before: EvaluationRecord | null,
  ) {}

  static async open(session: Session, o: Resolved): Promise<Recorder> {
    const after = session.completed ? { resumeAfter: session.completed } : {};
    const metrics = await StepLog.open<StepRecord>(`${o.out}/metrics.jsonl`, after);
    const samples = await StepLog.open<SampleRecord>(`${o.out}/samples.jsonl`, after);
    const path = `${o.out}/evaluations.jsonl`;
    const evaluations = session.held ? await StepLog.open<EvaluationRecord>(path, after) : null;
    const plans = session.main.predicted
      ? await StepLog.open<PlanRecord>(`${o.out}/plans.jsonl`, after)
      : null;
    const before = (await readLog<EvaluationRecord>(path)).find((e) => e.when === "before") ?? null;
    const progress = o.quiet
      ? null
      : inKernel()
      ? new NotebookProgress(o.steps)
      : createProgress({ steps: o.steps, done: session.completed, terminal: Deno.stderr.isTerminal() });
    const recorder = new Recorder(session, o, progress, metrics, samples, evaluations, plans, before);
    recorder.#peak = peakFlops(session);
    // What the report says of operations begins with the run.
    for (const device of session.engine.devices.all) device.profile();
    return recorder;
  }

  /** Hooks of one step: phases for the progress line. */
  hooks(_step: number): StepHooks & { readonly training: (call: string) => boolean } {
    this.#stepStart = performance.now();
    const trains = new Set(this.session.main.graph.calls.filter((c) => c.kind === "train").map((c) => c.id));
    return {
      training: (call) => trains.has(call),
      onPhase: (call, done, of) => this.progress?.phase(call, done, of),
    };
  }

  /** Writes a completed step's metrics and some of its samples; returns the metrics. */
  async step(step: number, batch: Batch, result: StepResult): Promise<Readonly<Record<string, number>>> {
    const seconds = (performance.now() - this.#stepStart) / 1000, { graph } = this.session.main;
    const tokens = [...batch.tokens.values()].reduce(
      (n, c) => n + c.ids.reduce((m, ids) => m + ids.length, 0),
      0,
    );
    this.#lastTrainSeconds = Object.entries(result.seconds).reduce(
      (n, [call, s]) => n + (graph.calls.some((c) => c.id === call && c.kind === "train") ? s : 0),
      0,
    );
    const times = Object.fromEntries(
      Object.entries(result.seconds).map(([call, s]) => [`seconds/${call}`, s]),
    );
    const metrics = {
      ...result.metrics,
      tokensPerSecond: tokens / seconds,
      mfu: result.flops / seconds / this.#peak,
      seconds,
      ...times,
      ...reallocationMetrics(result.reallocations),
    };
    this.#reallocations.add(result.reallocations);
    await this.metrics.write({ step, ...metrics });
    for (const record of sampleRecords(graph, batch, step, this.options.logSamples, this.session)) {
      await this.samples.write(record);
    }
    this.progress?.step({ step, metrics, seconds, tokens });
    return metrics;
  }

  /** Writes an evaluation down and says what it came to. */
  async evaluation(when: EvaluationRecord["when"], result: Evaluation): Promise<EvaluationRecord> {
    const record = { step: this.session.completed, when, ...result };
    await this.evaluations?.write(record);
    const figures = Object.entries(result.fields).map(([k, v]) =>
      `${k} ${shortNumber(v.mean)} ± ${shortNumber(v.error)}`
    );
    this.note(`evaluation ${when}: ${figures.join(", ")} on ${result.sequences} held-out sequences`);
    return record;
  }

  /** Writes down what concerns the plan, and says it; the first plan is among the derived lines. */
  async plan(record: PlanRecord): Promise<void> {
    await this.plans?.write(record);
    if (record.event !== "plan") this.note(record.line);
    // Replicas of another plan have the same names.
    if (record.event === "switch") this.#reallocations = new ReallocationLog();
  }

  note(line: string): void {
    this.progress?.note(line);
  }

  secondsLeft(): number {
    return this.#lastTrainSeconds;
  }

  /** The table of a finished run, and its report. */
  async finish(
    e: {
      readonly before: EvaluationRecord | null;
      readonly after: EvaluationRecord | null;
      readonly prediction: Prediction | null;
    },
  ): Promise<void> {
    this.leave();
    if (e.before && e.after) this.options.note(`\n${printComparison(e.before, e.after)}\n`);
    await this.progress?.settled?.();
    await this.flush();
    const { timeline, workflow } = this.session;
    if (timeline.steps.length) await timeline.write(`${this.options.out}/timeline.json`, workflow.name);
    await writeRunReport(this.session, this.options, { ...e, reallocations: this.#reallocations.rows });
    this.options.note(`report: ${this.options.out}/report.html`);
  }

  /** Forces the logs to disk: before a checkpoint says that these steps are done. */
  async flush(): Promise<void> {
    await this.metrics.flush();
    await this.samples.flush();
    await this.evaluations?.flush();
    await this.plans?.flush();
  }

  /** Gives the terminal back. */
  leave(): void {
    this.progress?.stop();
  }

  dispose(): void {
    this.leave();
    this.metrics[Symbol.dispose]();
    this.samples[Symbol.dispose]();
    this.evaluations?.[Symbol.dispose]();
    this.plans?.[Symbol.dispose]();
  }
}

/** Seconds after which a product is large enough. */
const LONG = 1e-4;

/**
 * Rate of a large product on all devices together, FLOP/s: what MFU is measured against. Virtual devices share the cores of the
 * machine, and more of them than there are cores are not faster; devices on one GPU share that.
 */
function peakFlops({ engine, deployment: { machine } }: Session): number {
  const { all } = engine.devices, device = all[0]!, { weights } = storageOf(machine);
  const busy = device.gpu === null
    ? Math.max(1, Math.min(all.length, Math.floor(device.description.cores / device.threads)))
    : new Set(all.map(({ gpu }) => gpu)).size;
  let rate = 0;
  // A product that takes a GPU no time says nothing of its rate.
  for (let by = 1; by <= 4; by *= 2) {
    const [m, n, k] = [768 * by, 512 * by, 512 * by] as const;
    const seconds = device.productSeconds("forward", m, n, k, 5, weights);
    if (seconds > 0) rate = 2 * m * n * k / seconds;
    if (!(seconds < LONG)) break;
  }
  return busy * rate;
}
