/** One step on its way: every instruction of a schedule starts when those that it waits for have ended. */
import { type Call, isHostCall } from "../ir/graph.ts";
import type { Instruction } from "../ir/plan.ts";
import { NativeError } from "../ffi/device.ts";
import type { Batch } from "./batch.ts";
import type { Calls, StageInput, StepContext } from "./calls.ts";
import type { Engine } from "./engine.ts";
import { firstCause } from "./settle.ts";
import type { ReallocationReport } from "./reallocation.ts";
import { Rounds } from "./refill.ts";
import { move } from "./residence.ts";
import { addCallMetrics, stepMetrics } from "./stats.ts";
import { StepVersions } from "./versions.ts";

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

/** One step on its way. */
export class Execution {
  readonly #tasks: Promise<void>[] = [];
  readonly #released = Promise.withResolvers<void>();
  readonly #written = new Map<string, number>();
  readonly #versions: StepVersions;
  readonly #stop = new AbortController();
  readonly #seconds: Record<string, number> = {};
  readonly #metrics: Record<string, number> = {};
  readonly #reallocations: ReallocationReport[] = [];
  readonly #rounds: Rounds | null;
  readonly #places: readonly number[];
  /** Metrics of the samples as they were before some of them were selected. */
  readonly #wide: Record<string, number> = {};
  #hooks: StepHooks = {};
  #flops = 0;

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
    this.#released.promise.catch(() => {});
    this.#places = batch.rows.map((_, i) => i);
    const refill = input.graph.calls.find((c) => c.kind === "refill");
    this.#rounds = refill
      ? new Rounds(input.graph, refill, batch, (count, round) => input.spare(count, { step, round }))
      : null;
  }

  release(hooks: StepHooks): void {
    this.#hooks = hooks;
    this.#watch(hooks.signal);
    this.#versions.begin();
    this.#released.resolve();
  }

  /** An abort reaches rollouts through their signal, and what devices have queued through their own flag. */
  #watch(signal: AbortSignal | undefined): void {
    if (signal?.aborted) this.#abort(signal.reason);
    signal?.addEventListener("abort", () => this.#abort(signal.reason), {
      once: true,
      signal: this.#stop.signal,
    });
  }
  #abort(reason: unknown): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort(reason);
    // What waits to be asked for will not be.
    this.#released.reject(reason);
    // Devices stop for all steps: one that still runs says why, not that it was cancelled.
    if (this.previous) this.previous.#abort(reason);
    this.engine.devices.cancel(true);
  }

  async run(hooks: StepHooks): Promise<StepResult> {
    this.#hooks = hooks;
    this.#watch(hooks.signal);
    const { schedule } = this.input, earlier = this.previous;
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
    // An abort may come when the last job is done already: then the step counts, and the devices go on all the same.
    if (this.#stop.signal.aborted) this.engine.devices.cancel(false);
    if (failed.length) {
      const { signal } = this.#hooks;
      // Programs that the devices gave up report that they were cancelled; the caller knows its own reason.
      throw signal?.aborted ? signal.reason : firstCause([this.#stop.signal.reason, ...failed]);
    }
    this.#stop.abort();
    for (const [state, value] of this.#written) this.engine.states.set(state, value);
    this.previous = null;
    this.#recordLag();
    return {
      metrics: { ...stepMetrics(this.input.graph, this.batch), ...this.#wide, ...this.#metrics },
      seconds: this.#seconds,
      flops: this.#flops,
      reallocations: this.#reallocations,
    };
  }

  /** Samples of generation that may lag say by how much they did, unless the workflow has a field of that name. */
  #recordLag(): void {
    for (const column of this.batch.tokens.values()) {
      const values = this.#versions.lags(column);
      if (values && !this.batch.numbers.has("lag")) {
        this.batch.numbers.set("lag", { per: "sequence", values });
      }
    }
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
        this.#seconds[call.id] = (this.#seconds[call.id] ?? 0) + (end - start) / 1000;
        if (isHostCall(call)) {
          const span = { device: "host", lane: "call", name: call.id, detail: call.kind } as const;
          this.input.timeline?.add({ ...span, step: this.step + 1, begin: start, end });
        }
        return;
      }
      case "reallocate": {
        const { from, to, weight } = instruction, name = `${from} → ${to}`;
        const { timeline } = this.input, step = this.step + 1;
        const report = await engine.reallocator(from, to).run(weight, (job, device, bytes) => {
          const span = { device, lane: "reallocation", name } as const;
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
        return await move(
          engine.devices,
          engine.replica(instruction.replica),
          instruction.op,
          instruction.part,
        );
      case "load":
        throw new Error("Cannot load a replica in a step: it belongs into the prologue");
    }
  }

  async #run(call: Call): Promise<void> {
    const work = this.#rounds
      ? this.#rounds.of(call.id)
      : { batch: this.batch, places: this.#places, round: 1 };
    // A round that is not needed any more.
    if (!work) return;
    this.#hooks.onPhase?.(call.id, 0, 1);
    // What the rollout was like is said of all its samples, not only of those that go on.
    if (call.kind === "select") Object.assign(this.#wide, stepMetrics(this.input.graph, this.batch));
    const states = () => this.#states();
    const context: StepContext = {
      step: this.step,
      ...work,
      rounds: this.#rounds,
      get states() {
        return states();
      },
      write: (state, value) => this.#written.set(state, value),
      versions: this.#versions,
      onPhase: (id, done, of) => this.#hooks.onPhase?.(id, done, of),
      signal: this.#stop.signal,
    };
    const before = this.calls.flopsOf(call);
    try {
      const said = await this.calls.run(call, context);
      // A call never runs twice at once, but another step may run other calls meanwhile.
      this.#flops += this.calls.flopsOf(call) - before;
      if (said) addCallMetrics(this.#metrics, this.input.graph, call, said);
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
