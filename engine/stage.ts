/** One call graph bound to an engine: its programs, buffers and host functions, and the interpreter of its schedule. */
import type { GeneratePrograms, Programs } from "../compiler/programs.ts";
import type { Call, CallGraph, GenerateCall, InferCall, ScoreCall, TrainCall } from "../ir/graph.ts";
import type { Segment } from "../ir/op.ts";
import type { Schedule } from "../ir/plan.ts";
import type { Program } from "../ir/program.ts";
import { type DeviceSegment, NativeError } from "../ffi/device.ts";
import type { Batch, TokenColumn } from "./batch.ts";
import { Binding } from "./binding.ts";
import { compute } from "./compute.ts";
import type { Engine } from "./engine.ts";
import { Generator } from "./generate.ts";
import { infer, type InferPort } from "./infer.ts";
import { streamKey } from "./random.ts";
import type { Scorer } from "./score.ts";
import { addTrainMetrics, stepMetrics } from "./stats.ts";
import { putResponses } from "./responses.ts";
import { train, type TrainMetrics } from "./train.ts";
import { StepVersions } from "./versions.ts";

export interface StageInput {
  readonly graph: CallGraph;
  readonly schedule: Schedule;
  readonly programs: Programs;
  readonly scorers: ReadonlyMap<string, Scorer>;
  /** Stop token ids of each generate call. */
  readonly stops: Readonly<Record<string, readonly number[]>>;
  readonly decode: (ids: Int32Array, after: Int32Array) => string;
  readonly encode: (text: string) => Int32Array;
  /** Token column as another model's tokenizer sees it; the identity when vocabularies agree (DESIGN §3.5). */
  readonly retokenize: (model: string, column: TokenColumn, batch: Batch) => TokenColumn;
  readonly seed: number;
  /** Updates that each model makes in the whole run, for learning rate schedules. */
  readonly totalUpdates: Readonly<Record<string, number>>;
}

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
}

export class Stage {
  readonly #bindings = new Map<string, Binding>();
  readonly #generators = new Map<string, Generator>();
  readonly #versions: StepVersions;
  /** States that the current step has written. */
  readonly #written = new Map<string, number>();

  /** Allocates inputs, outputs and caches of every call; nothing is allocated on the device afterwards. */
  constructor(readonly engine: Engine, readonly input: StageInput) {
    const { graph, programs } = input;
    this.#versions = new StepVersions(graph, engine.replicas);
    for (const call of graph.calls) {
      if (call.kind === "score") continue;
      const shared = {
        arena: engine.arena,
        ...("model" in call ? engine.replicas.get(call.model)!.segments : {}),
      };
      if (call.kind === "generate") {
        this.#generators.set(call.id, this.#generator(call.id, programs.generate[call.id]!, shared));
        continue;
      }
      const program = call.kind === "infer"
        ? programs.infer[call.id]!
        : call.kind === "train"
        ? programs.train[call.id]!.train
        : programs.compute[call.id]!;
      this.#bind(call.id, program, shared);
      const update = call.kind === "train" ? `${call.model} update` : "";
      if (call.kind === "train" && !this.#bindings.has(update)) {
        this.#bind(update, programs.update[call.model]!, shared);
      }
    }
  }

  #bind(name: string, program: Program, shared: Partial<Record<Segment, DeviceSegment>>): void {
    const { device, calls } = this.engine;
    this.#bindings.set(name, new Binding(device, program, { ...shared, ...calls.own(name, program) }));
  }

  #generator(id: string, g: GeneratePrograms, shared: Partial<Record<Segment, DeviceSegment>>): Generator {
    const { device, calls } = this.engine, { prefill, decode, copyPages } = g;
    const whole = {
      ...shared,
      kv: calls.segment(`${id} kv`, decode.segmentBytes.kv),
      state: calls.segment(
        `${id} state`,
        Math.max(prefill.segmentBytes.state, decode.segmentBytes.state),
      ),
    };
    return new Generator(device, g, { ...g.cache, prefillTokens: prefill.maxima.tokens }, whole, {
      prefill: calls.own(`${id} prefill`, prefill),
      decode: calls.own(`${id} decode`, decode),
      copyPages: calls.own(`${id} copy`, copyPages),
    });
  }

  /** Runs every call of one step on `batch`, which then holds all fields. An abort ends also what the device runs and has queued. */
  async step(step: number, batch: Batch, hooks: StepHooks = {}): Promise<StepResult> {
    const cancel = () => this.engine.device.cancel(true), { signal } = hooks;
    signal?.addEventListener("abort", cancel);
    try {
      return await this.#run(step, batch, hooks);
    } catch (error) {
      // Programs that the device gave up report that they were cancelled; the caller knows its own reason.
      throw signal?.aborted ? signal.reason : error;
    } finally {
      signal?.removeEventListener("abort", cancel);
      if (signal?.aborted) this.engine.device.cancel(false);
    }
  }

  async #run(step: number, batch: Batch, hooks: StepHooks): Promise<StepResult> {
    const seconds: Record<string, number> = {}, metrics: Record<string, number> = {}, before = this.#flops();
    this.#written.clear();
    this.#versions.begin();
    for (const instruction of this.input.schedule.step) {
      if (instruction.op !== "run") continue;
      const call = this.#call(instruction.call), start = performance.now();
      hooks.signal?.throwIfAborted();
      hooks.onPhase?.(call.id, 0, 1);
      try {
        const trained = await this.#dispatch(call, step, batch, hooks);
        if (trained) addTrainMetrics(metrics, this.input.graph, call, trained);
      } catch (error) {
        throw error instanceof NativeError ? ofCall(error, call) : error;
      }
      seconds[call.id] = (performance.now() - start) / 1000;
    }
    for (const [state, value] of this.#written) this.engine.states.set(state, value);
    return {
      metrics: { ...stepMetrics(this.input.graph, batch), ...metrics },
      seconds,
      flops: this.#flops() - before,
    };
  }

  /** Metrics of a train call; the others only write fields. */
  async #dispatch(
    call: Call,
    step: number,
    batch: Batch,
    hooks: StepHooks,
  ): Promise<TrainMetrics | void> {
    switch (call.kind) {
      case "generate":
        return await this.#generate(call, step, batch, hooks);
      case "infer":
        return await this.#infer(call, batch, hooks);
      case "score":
        return await this.#score(call, batch, hooks);
      case "compute":
        return await this.#compute(call.id, batch);
      case "train":
        return await this.#train(call, step, batch, hooks);
    }
  }

  #flops(): number {
    return [...this.#bindings.values(), ...this.#generators.values()].reduce((n, b) => n + b.flops, 0);
  }

  #call(id: string): Call {
    return this.input.graph.calls.find((c) => c.id === id)!;
  }

  async #generate(call: GenerateCall, step: number, batch: Batch, hooks: StepHooks): Promise<void> {
    const replica = this.engine.replicas.get(call.model)!, stops = this.input.stops[call.id] ?? [];
    const { samples, maxNewTokens } = call.sampling, version = replica.version;
    const most = batch.sequences * maxNewTokens, prompts = this.#prompts(call, batch);
    const responses = await this.#generators.get(call.id)!.run({
      prompts,
      indices: prompts.map((_, i) => i),
      samples,
      maxNewTokens,
      stops,
      key: streamKey(this.input.seed, call.id, step),
      maxPositions: this.engine.models[call.model]!.maxPositions,
      onTokens: (n) => hooks.onPhase?.(call.id, n, most),
      ...(hooks.signal && { signal: hooks.signal }),
    });
    putResponses(batch, call, prompts, responses, version, this.input.decode);
  }

  /**
   * The data set's own prompts are encoded already; any other text field is encoded here, once per group.
   *
   * @throws RangeError for a text without a token, or one longer than what the cache was sized for
   */
  #prompts(call: GenerateCall, batch: Batch): readonly Int32Array[] {
    const field = call.reads.prompt!;
    if (field === "prompt") return batch.rows.map((row) => row.prompt!.ids);
    const texts = batch.texts.get(field);
    if (!texts) {
      throw new Error(
        `Cannot generate in ${call.id}: no call has written the prompt field "${field}" in this step`,
      );
    }
    const { longestPrompt } = this.input.programs.generate[call.id]!.cache;
    const encoded = batch.rows.map((_, i) => this.input.encode(texts[i * batch.group]!));
    const bad = encoded.findIndex((ids) => ids.length < 1 || ids.length > longestPrompt);
    if (bad < 0) return encoded;
    throw new RangeError(
      `Cannot generate in ${call.id}: "${field}" of sample ${batch.rows[bad]!.index} has ${
        encoded[bad]!.length
      } tokens and 1 to ${longestPrompt} fit, shorten or skip such prompts`,
    );
  }

  async #infer(call: InferCall, batch: Batch, hooks: StepHooks): Promise<void> {
    const column = batch.tokensOf(call.reads.tokens!);
    this.#versions.check(call, column);
    const ports = Object.keys(call.writes) as InferPort[];
    const seen = this.input.retokenize(call.model, column, batch);
    const results = await infer(this.#bindings.get(call.id)!, seen, ports, hooks.signal);
    for (const port of ports) {
      const field = call.writes[port]!;
      batch.putFlat(field, this.input.graph.fields[field]!, results[port]!);
    }
  }

  async #score(call: ScoreCall, batch: Batch, hooks: StepHooks): Promise<void> {
    const scorer = this.input.scorers.get(call.id)!;
    const progress = (done: number) => hooks.onPhase?.(call.id, done, batch.sequences);
    const values = await scorer.run(call, batch, progress, hooks.signal);
    const [field] = Object.values(call.writes);
    batch.numbers.set(field!, { per: "sequence", values });
  }

  async #compute(id: string, batch: Batch): Promise<void> {
    const call = this.#call(id);
    if (call.kind !== "compute") return;
    const results = await compute(
      this.#bindings.get(id)!,
      batch,
      call.reads.tokens ?? null,
      this.engine.states,
    );
    for (const [port, field] of Object.entries(call.writes)) {
      batch.putFlat(field, this.input.graph.fields[field]!, results[port]!);
    }
    // Every call of a step reads the value that the step began with.
    for (const [state, output] of Object.entries(call.states)) this.#written.set(state, results[output]![0]!);
  }

  async #train(
    call: TrainCall,
    step: number,
    batch: Batch,
    hooks: StepHooks,
  ): Promise<TrainMetrics> {
    const replica = this.engine.replicas.get(call.model)!, spec = this.input.graph.models[call.model]!;
    const tokens = call.reads.tokens!;
    this.#versions.check(call, batch.tokensOf(tokens));
    const generate = this.input.graph.calls.find((c): c is GenerateCall =>
      c.kind === "generate" && c.model === call.model && c.writes.tokens === tokens
    );
    // An earlier train call of this step, or lag, has moved the weights away from those that sampled.
    const same = batch.tokensOf(tokens).versions.every((version) => version === replica.version);
    const result = await train(this.#bindings.get(call.id)!, this.#bindings.get(`${call.model} update`)!, {
      call,
      batch,
      tokens,
      together: this.input.programs.train[call.id]!.together,
      optimizer: spec.optimizer!,
      updates: replica.updates,
      totalUpdates: this.input.totalUpdates[call.model]!,
      states: this.engine.states,
      key: (epoch) => streamKey(this.input.seed, call.id, step, epoch),
      sampledLogprobs: same ? generate?.writes.logprobs ?? null : null,
      onMicroBatch: (done, of) => hooks.onPhase?.(call.id, done, of),
    });
    replica.updates = result.updates;
    replica.version++;
    return result.metrics;
  }

  dispose(): void {
    for (const b of this.#bindings.values()) b.dispose();
    for (const g of this.#generators.values()) g.dispose();
  }
}

/** The device knows programs and operations; who reads the error knows calls. */
function ofCall(error: NativeError, call: Call): NativeError {
  const what = error.message.replace(/^Cannot run /, ""), site = call.site ? ` (${call.site})` : "";
  const advice = /not finite/.test(what) ? ", look at its weights and the learning rate" : "";
  return new NativeError(`Cannot run ${call.id}: ${what}${advice}${site}`, error.status, { cause: error });
}
