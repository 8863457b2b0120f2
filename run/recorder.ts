/** Everything a run leaves behind or shows while it goes: logs, progress, tables, report. */
import type { CallGraph, GenerateCall } from "../ir/graph.ts";
import type { Batch } from "../engine/batch.ts";
import { createProgress, type Progress } from "../engine/progress.ts";
import { type SampleRecord, StepLog, type StepRecord } from "../engine/metrics.ts";
import type { StepHooks, StepResult } from "../engine/stage.ts";
import { shortNumber } from "../engine/table.ts";
import { printComparison } from "./comparison.ts";
import type { Evaluation } from "./evaluation.ts";
import { writeRunReport } from "./report.ts";
import type { Resolved } from "./resolve.ts";
import type { Session } from "./session.ts";

export class Recorder {
  #stepStart = performance.now();
  #lastTrainSeconds = 1;
  #peak = 0;

  private constructor(
    readonly session: Session,
    readonly options: Resolved,
    readonly progress: Progress | null,
    readonly metrics: StepLog<StepRecord>,
    readonly samples: StepLog<SampleRecord>,
  ) {}

  static async open(session: Session, o: Resolved): Promise<Recorder> {
    const after = session.completed ? { resumeAfter: session.completed } : {};
    const metrics = await StepLog.open<StepRecord>(`${o.out}/metrics.jsonl`, after);
    const samples = await StepLog.open<SampleRecord>(`${o.out}/samples.jsonl`, after);
    const progress = o.quiet
      ? null
      : createProgress({ steps: o.steps, done: session.completed, terminal: Deno.stderr.isTerminal() });
    const recorder = new Recorder(session, o, progress, metrics, samples);
    recorder.#peak = peakFlops(session);
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
    };
    await this.metrics.write({ step, ...metrics });
    for (const record of sampleRecords(graph, batch, step, this.options.logSamples, this.session)) {
      await this.samples.write(record);
    }
    this.progress?.step({ step, metrics, seconds, tokens });
    return metrics;
  }

  async evaluation(step: number, when: string, e: Evaluation): Promise<void> {
    const { rewards } = e.fields;
    const figures = {
      ...(rewards && { "evaluation/reward": rewards.mean, "evaluation/rewardError": rewards.error }),
    };
    if (when === "between") await this.metrics.write({ step, ...figures });
    this.note(
      `evaluation ${when}: ${
        Object.entries(e.fields).map(([k, v]) => `${k} ${shortNumber(v.mean)} ± ${shortNumber(v.error)}`)
          .join(", ")
      } ` +
        `on ${e.sequences} held-out sequences`,
    );
  }

  note(line: string): void {
    this.progress?.note(line);
  }

  secondsLeft(): number {
    return this.#lastTrainSeconds;
  }

  /** The table of a finished run, and its report. */
  async finish(e: { readonly before: Evaluation | null; readonly after: Evaluation | null }): Promise<void> {
    this.leave();
    if (e.before && e.after && !this.options.quiet) {
      console.error(`\n${printComparison(e.before, e.after)}\n`);
    }
    await this.flush();
    await writeRunReport(this.session, this.options, e);
    if (!this.options.quiet) console.error(`report: ${this.options.out}/report.html`);
  }

  /** Forces both logs to disk: before a checkpoint says that these steps are done. */
  async flush(): Promise<void> {
    await this.metrics.flush();
    await this.samples.flush();
  }

  /** Gives the terminal back. */
  leave(): void {
    this.progress?.stop();
  }

  dispose(): void {
    this.leave();
    this.metrics[Symbol.dispose]();
    this.samples[Symbol.dispose]();
  }
}

/** The first samples of a step, with their per-token fields, as samples.jsonl holds them. */
export function sampleRecords(
  graph: CallGraph,
  batch: Batch,
  step: number,
  count: number,
  session: Session,
): SampleRecord[] {
  const generate = graph.calls.find((c): c is GenerateCall => c.kind === "generate"),
    field = generate?.writes.tokens ?? "tokens";
  const column = batch.tokens.get(field);
  if (!column) return [];
  return Array.from({ length: Math.min(count, batch.sequences) }, (_, s) => {
    const ids = column.ids[s]!,
      actions = column.actions[s]!,
      perToken: Record<string, number[]> = {},
      scores: Record<string, number> = {};
    for (const [name, values] of batch.numbers) {
      if (values.per === "token" && values.of === field) perToken[name] = [...values.values[s]!];
      else if (values.per === "sequence") scores[name] = values.values[s]!;
    }
    return {
      step,
      index: batch.rowOf(s).index,
      prompt: batch.texts.get("prompt")?.[s] ?? "",
      tokens: session.pieces(actions.map((a) => ids[a]!), ids.subarray(0, actions[0] ?? ids.length)),
      completion: batch.texts.get(generate?.writes.response ?? "")?.[s] ?? "",
      perToken,
      scores,
      finished: scores[generate?.writes.finished ?? ""] === 1,
      weightVersion: column.versions[s]!,
    };
  });
}

/** Rate of a large product on this device, FLOP/s: what MFU is measured against. */
function peakFlops(session: Session): number {
  const [m, n, k] = [768, 512, 512];
  return 2 * m * n * k / session.engine.device.productSeconds("forward", m, n, k, 5);
}
