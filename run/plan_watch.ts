/** Compares the steps of a run with its plan, says where they differ, and plans again where that is wanted. */
import type { Batch } from "../engine/batch.ts";
import { shortTime } from "../engine/table.ts";
import { printPlan } from "../planner/plan_file.ts";
import { autoPlan } from "./auto_plan.ts";
import { DriftWatch, measuredInput, scalesOf, WINDOW } from "./drift.ts";
import { type Prediction, predictionOf } from "./prediction.ts";
import { isRefusal } from "./refusal.ts";
import type { Session } from "./session.ts";

/** A line of plans.jsonl. */
export interface PlanRecord {
  /** Steps that were done. */
  readonly step: number;
  /** The run's first plan, something in which steps differ from it, and what came of planning again. */
  readonly event: "plan" | "drift" | "stay" | "switch";
  /** What a person reads. */
  readonly line: string;
  /** Seconds of a step, or tokens. */
  readonly planned: number;
  readonly measured?: number;
}

/** What the watch needs of a run. */
export interface WatchOptions {
  /** Steps in all. */
  readonly steps: number;
  readonly replan: boolean;
  /** Folder of checkpoints. */
  readonly checkpoints: string;
  readonly record: (r: PlanRecord) => Promise<void>;
  /** Forces the logs to disk: a checkpoint says that these steps are done. */
  readonly flush: () => Promise<void>;
  /** Gets the new plan as YAML. */
  readonly plan: (yaml: string) => Promise<void>;
}

/** Another plan has to be at least this share faster: a switch costs a checkpoint. */
const WORTH = 0.05;

export class PlanWatch {
  #watch: DriftWatch;

  private constructor(readonly session: Session, private now: Prediction, readonly o: WatchOptions) {
    this.#watch = new DriftWatch(session.main.graph, now);
  }

  /** Null where nothing was predicted. */
  static async of(session: Session, o: WatchOptions): Promise<PlanWatch | null> {
    const { planned, predicted } = session.main;
    if (!predicted) return null;
    const line = planned?.line ??
      `the plan promises ${
        shortTime(predicted.seconds)
      } per step with the profile of ${predicted.input.profile.name}`;
    const { completed: step } = session;
    if (step < o.steps) await o.record({ step, event: "plan", line, planned: predicted.seconds });
    return new PlanWatch(session, predicted, o);
  }

  /** What the steps are compared with. */
  get prediction(): Prediction {
    return this.now;
  }

  /** After a step. @param more whether another one follows */
  async add(batch: Batch, metrics: Readonly<Record<string, number>>, more: boolean): Promise<void> {
    const found = this.#watch.add(batch, metrics), again = this.o.replan && more;
    if (!found.length) return;
    const advice = again
      ? "planning again"
      : "--replan plans again with what was measured, `baton profile` measures this machine";
    for (const [i, { line, planned, measured }] of found.entries()) {
      const last = i === found.length - 1;
      await this.#record("drift", last && more ? `${line}: ${advice}` : line, planned, measured);
    }
    if (again) await this.#replan();
  }

  async #replan(): Promise<void> {
    const { session } = this, { main } = session, measured = this.#watch.measured!;
    const input = measuredInput(this.prediction, measured), before = predictionOf(input, main.plan);
    const scaled = { ...input, scales: scalesOf(input, before.calls, measured) };
    const now = predictionOf(scaled, main.plan);
    try {
      const planned = await autoPlan(scaled, () => {});
      if (planned.seconds >= (1 - WORTH) * now.seconds) return await this.#stay(now, "no other plan is");
      const fitted = await session.underPlan({ planned, input: scaled });
      await this.o.flush();
      await session.switchTo(fitted, this.o.checkpoints);
    } catch (error) {
      // Until memory is let go of, whatever is wrong with another plan leaves the run as it is.
      if (session.main !== main || !isRefusal(error)) throw error;
      return await this.#stay(now, `${error.message}; no other plan is`);
    }
    const { predicted, plan } = session.main;
    this.#compareWith(predicted!);
    await this.o.plan(printPlan(plan));
    await this.#record(
      "switch",
      `planned again: from here on ${shortTime(predicted!.seconds)} per step predicted, ${
        shortTime(now.seconds)
      } with the plan so far`,
      predicted!.seconds,
    );
  }

  /** The same plan, with what was measured as what it promises. */
  async #stay(now: Prediction, why: string): Promise<void> {
    this.#compareWith(now);
    const line = `planned again: ${why} predicted to be ${100 * WORTH} % faster than this one, ${
      shortTime(now.seconds)
    } per step`;
    await this.#record("stay", line, now.seconds);
  }

  /** From here on. Whoever has planned again looks at more steps before doing so once more. */
  #compareWith(prediction: Prediction): void {
    this.now = prediction;
    this.#watch = new DriftWatch(this.session.main.graph, prediction, WINDOW);
  }

  #record(event: PlanRecord["event"], line: string, planned: number, measured?: number): Promise<void> {
    const { completed: step } = this.session;
    return this.o.record({ step, event, line, planned, ...measured !== undefined && { measured } });
  }
}
