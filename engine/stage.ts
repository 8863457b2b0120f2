/** One call graph bound to an engine, and the interpreter of its schedule. */
import { earlyInstructions } from "../ir/early.ts";
import type { Call } from "../ir/graph.ts";
import type { Instruction } from "../ir/plan.ts";
import { NativeError } from "../ffi/device.ts";
import type { Batch } from "./batch.ts";
import { Calls, type StageInput, type StepContext } from "./calls.ts";
import type { Engine } from "./engine.ts";
import { firstCause } from "./lanes.ts";
import type { ReallocationReport } from "./reallocation.ts";
import { move } from "./residence.ts";
import { addTrainMetrics, stepMetrics } from "./stats.ts";
import { StepVersions } from "./versions.ts";

export type { StageInput } from "./calls.ts";

/** Called as a step goes on, for progress. */
export interface StepHooks {
  readonly onPhase?: (call: string, done: number, of: number) => void;
  readonly signal?: AbortSignal;
}

export interface StepResult {
  readonly metrics: Readonly<Record<string, number>>;
  /** Seconds per call. */
  readonly seconds: Readonly<Record<string, number>>;
  /** Floating point operations that the step's programs needed. */
  readonly flops: number;
  readonly reallocations: readonly ReallocationReport[];
}

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
    this.#early = earlyInstructions(input.schedule, input.graph);
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
   * Begins a step: what is early runs as soon as its devices are free, everything else once it is released. Every instruction
   * waits for what it needs of this step and of the one begun before.
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

/** One step on its way. */
class Execution {
  readonly #tasks: Promise<void>[] = [];
  readonly #released = Promise.withResolvers<void>();
  readonly #written = new Map<string, number>();
  readonly #versions: StepVersions;
  readonly #stop = new AbortController();
  readonly #seconds: Record<string, number> = {};
  readonly #metrics: Record<string, number> = {};
  readonly #reallocations: ReallocationReport[] = [];
  #hooks: StepHooks = {};

  constructor(
    readonly engine: Engine,
    readonly calls: Calls,
    readonly input: StageInput,
    readonly early: ReadonlySet<number>,
    readonly step: number,
    readonly batch: Batch,
    private previous: Execution | null,
  ) {
    this.#versions = new StepVersions(input.graph, () => engine.homes);
  }

  release(hooks: StepHooks): void {
    this.#hooks = hooks;
    this.#watch(hooks.signal);
    this.#versions.begin();
    this.#released.resolve();
  }

  /** An abort reaches rollouts through their signal, and what devices have queued through their own flag. */
  #watch(signal: AbortSignal | undefined): void {
    if (signal?.aborted) this.#stop.abort(signal.reason);
    signal?.addEventListener("abort", () => this.#abort(signal.reason), {
      once: true,
      signal: this.#stop.signal,
    });
  }
  #abort(reason: unknown): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort(reason);
    this.engine.devices.cancel(true);
  }

  async run(hooks: StepHooks): Promise<StepResult> {
    this.#hooks = hooks;
    this.#watch(hooks.signal);
    const { schedule } = this.input, before = this.calls.flops, earlier = this.previous;
    schedule.step.forEach((instruction, i) => {
      const waits = [
        ...instruction.after.map((j) => this.#tasks[j]!),
        ...instruction.afterPrevious.map((j) => earlier?.task(j)),
        ...this.early.has(i) ? [] : [this.#released.promise],
      ];
      const task = this.#after(waits, instruction);
      // The first failure stops the others; each is seen below.
      task.catch((error) => this.#abort(error));
      this.#tasks.push(task);
    });
    const results = await Promise.allSettled(this.#tasks);
    const failed = results.flatMap((r) => r.status === "rejected" ? [r.reason] : []);
    if (failed.length) {
      this.engine.devices.cancel(false);
      const { signal } = this.#hooks;
      // Programs that the devices gave up report that they were cancelled; the caller knows its own reason.
      throw signal?.aborted ? signal.reason : firstCause([this.#stop.signal.reason, ...failed]);
    }
    this.#stop.abort();
    for (const [state, value] of this.#written) this.engine.states.set(state, value);
    this.previous = null;
    return {
      metrics: { ...stepMetrics(this.input.graph, this.batch), ...this.#metrics },
      seconds: this.#seconds,
      flops: this.calls.flops - before,
      reallocations: this.#reallocations,
    };
  }

  /** When an instruction of this step has ended. */
  task(i: number): Promise<void> | undefined {
    return this.#tasks[i];
  }

  /** States as this step began: what the step before makes of them, once those of its calls that write them have run. */
  #states(): ReadonlyMap<string, number> {
    return new Map([...this.engine.states, ...this.previous?.written ?? []]);
  }
  get written(): ReadonlyMap<string, number> {
    return this.#written;
  }

  async #after(waits: readonly (Promise<void> | undefined)[], instruction: Instruction): Promise<void> {
    await Promise.all(waits);
    this.#stop.signal.throwIfAborted();
    const start = performance.now(), { engine } = this;
    switch (instruction.op) {
      case "run": {
        const call = this.input.graph.calls.find((c) => c.id === instruction.call)!;
        await this.#run(call);
        const end = performance.now();
        this.#seconds[call.id] = (end - start) / 1000;
        if (call.kind === "score") {
          const span = { device: "host", lane: "call", name: call.id, detail: "score" } as const;
          this.input.timeline?.add({ ...span, step: this.step + 1, begin: start, end });
        }
        return;
      }
      case "reallocate": {
        const { from, to, weight } = instruction, name = `${from} → ${to}`;
        const { timeline } = this.input, step = this.step + 1, { plan } = engine.reallocator(from, to);
        const report = await engine.reallocator(from, to).run(weight, (job, device) => {
          const bytes = plan.received.get(device) ?? 0,
            span = { device, lane: "reallocation", name } as const;
          job.done.then(
            ({ begin, end }) => timeline?.add({ ...span, detail: "", step, begin, end, bytes }),
            () => {},
          );
        });
        const [source, target] = [engine.replica(from), engine.replica(to)];
        target.version = weight === 1 ? source.version : (target.version ?? 0) + 1;
        this.#reallocations.push(report);
        return;
      }
      case "free":
        engine.replica(instruction.replica).version = null;
        return;
      case "fetch":
      case "offload":
        return await move(engine, instruction.replica, instruction.op);
      case "load":
        throw new Error("Cannot load a replica in a step: it belongs into the prologue");
    }
  }

  async #run(call: Call): Promise<void> {
    this.#hooks.onPhase?.(call.id, 0, 1);
    const states = () => this.#states();
    const context: StepContext = {
      step: this.step,
      batch: this.batch,
      get states() {
        return states();
      },
      write: (state, value) => this.#written.set(state, value),
      versions: this.#versions,
      onPhase: (id, done, of) => this.#hooks.onPhase?.(id, done, of),
      signal: this.#stop.signal,
    };
    try {
      const trained = await this.calls.run(call, context);
      if (trained) addTrainMetrics(this.#metrics, this.input.graph, call, trained);
    } catch (error) {
      throw error instanceof NativeError ? ofCall(error, call) : error;
    }
  }
}

/** The device knows programs and operations; who reads the error knows calls. */
function ofCall(error: NativeError, call: Call): NativeError {
  const what = error.message.replace(/^Cannot run /, ""), site = call.site ? ` (${call.site})` : "";
  const advice = /not finite/.test(what) ? ", look at its weights and the learning rate" : "";
  return new NativeError(`Cannot run ${call.id}: ${what}${advice}${site}`, error.status, { cause: error });
}
