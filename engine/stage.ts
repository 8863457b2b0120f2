/** One call graph bound to an engine: begins its steps, the next one perhaps before the last has ended. */
import type { Batch } from "./batch.ts";
import { Calls, type StageInput } from "./calls.ts";
import type { Engine } from "./engine.ts";
import { Execution, type StepHooks, type StepResult } from "./execution.ts";

export type { StageInput } from "./calls.ts";
export type { StepHooks, StepResult } from "./execution.ts";

/** A step that has begun. */
export interface StepRun {
  readonly step: number;
  readonly batch: Batch;
  /** Rejects with what went wrong first, once nothing of the step runs any more. */
  readonly done: Promise<StepResult>;
  /** Lets go what was held back. */
  readonly release: (hooks: StepHooks) => void;
}

export class Stage {
  readonly calls: Calls;
  /** Instructions that need nothing but the data set and what earlier steps left: they may run before their step is asked for. */
  readonly #early: ReadonlySet<number>;
  #previous: Execution | null = null;

  /** Allocates inputs, outputs and caches of every call; nothing is allocated on a device afterwards. */
  constructor(readonly engine: Engine, readonly input: StageInput) {
    this.calls = new Calls(engine, input);
    this.#early = earlyInstructions(input);
    // Working out what moves where takes up to seconds for large models: not in the first step.
    for (const a of input.schedule.step) if (a.op === "reallocate") engine.reallocator(a.from, a.to);
  }

  /** Whether anything can run before its step is asked for. */
  get looksAhead(): boolean {
    return this.input.schedule.step.some((a, i) => a.op === "run" && this.#early.has(i));
  }

  /** Runs every call of one step on `batch`, which then holds all fields. An abort ends also what the devices run and have queued. */
  async step(step: number, batch: Batch, hooks: StepHooks = {}): Promise<StepResult> {
    const run = this.begin(step, batch, hooks);
    run.release(hooks);
    return await run.done;
  }

  /**
   * Begins a step: what is early runs as soon as its devices are free, everything else once it is released. Every
   * instruction waits for what it needs of this step and of the one begun before.
   */
  begin(step: number, batch: Batch, hooks: StepHooks = {}): StepRun {
    const execution = new Execution(
      this.engine,
      this.calls,
      this.input,
      this.#early,
      step,
      batch,
      this.#previous,
    );
    this.#previous = execution;
    const done = execution.run(hooks);
    done.catch(() => {
      // Nothing of it runs any more: a later step need not wait for what never happened.
      if (this.#previous === execution) this.#previous = null;
    });
    return { step, batch, done, release: (hooks) => execution.release(hooks) };
  }

  dispose(): void {
    this.calls.dispose();
  }
}

/** Generation from the data set's own fields, and the reallocations around it. */
function earlyInstructions({ schedule, graph }: StageInput): ReadonlySet<number> {
  const early = new Set<number>();
  schedule.step.forEach((a, i) => {
    if (a.op === "run") {
      const call = graph.calls.find((c) => c.id === a.call)!;
      const given = Object.values(call.reads).every((field) => field in graph.source.fields);
      if (call.kind !== "generate" || !given) return;
    }
    // A checkpoint between the steps has the weights that the step's own generation samples from.
    if (a.op === "reallocate" && schedule.replicas[a.to]!.lag > 0) return;
    if (a.after.every((j) => early.has(j))) early.add(i);
  });
  return early;
}
