/** The calls of one graph bound to an engine: what each does with a batch. */
import type { Programs } from "../compiler/programs.ts";
import { devicesOf } from "../ir/mesh.ts";
import {
  type Call,
  type CallGraph,
  type ComputeCall,
  type GenerateCall,
  type InferCall,
  isHostCall,
  type ScoreCall,
  type TrainCall,
} from "../ir/graph.ts";
import { keptWidth } from "../ir/groups.ts";
import type { Cluster, ExecutionPlan, Schedule } from "../ir/plan.ts";
import type { Batch, TokenColumn } from "./batch.ts";
import { BoundCall } from "./bound.ts";
import { compute } from "./compute.ts";
import { converse, type HostTool } from "./conversation.ts";
import type { Engine } from "./engine.ts";
import { Generator } from "./generate.ts";
import { infer, type InferPort } from "./infer.ts";
import { streamKey } from "./random.ts";
import type { Rounds } from "./refill.ts";
import type { Replica } from "./replica.ts";
import type { GenerateRequest } from "./request.ts";
import { putResponses } from "./responses.ts";
import { select } from "./select.ts";
import type { Sample } from "./sample.ts";
import type { Scorer } from "./score.ts";
import { train, type TrainMetrics } from "./train.ts";
import type { Timeline } from "./timeline.ts";
import { checkReplica, type StepVersions } from "./versions.ts";

export interface StageInput {
  readonly graph: CallGraph;
  readonly plan: ExecutionPlan;
  readonly schedule: Schedule;
  readonly programs: Programs;
  readonly scorers: ReadonlyMap<string, Scorer>;
  /** Stop token ids of each generate call. */
  readonly stops: Readonly<Record<string, readonly number[]>>;
  readonly decode: (ids: Int32Array, after: Int32Array) => string;
  readonly encode: (text: string, options?: { readonly bos?: boolean }) => Int32Array;
  /** Tools of each generate call that has any. */
  readonly tools: Readonly<Record<string, readonly HostTool[]>>;
  /** Until when a tool has to have answered. */
  readonly toolSeconds: number;
  /** Token column as another model's tokenizer sees it; the identity when vocabularies agree (DESIGN §3.5). */
  readonly retokenize: (model: string, column: TokenColumn, batch: Batch) => TokenColumn;
  readonly seed: number;
  /** Rows for the places that a refill has to fill again. */
  readonly spare: (count: number, at: { readonly step: number; readonly round: number }) => readonly Sample[];
  /** Updates that each model makes in the whole run, for learning rate schedules. */
  readonly totalUpdates: Readonly<Record<string, number>>;
  /** Takes what devices did and when. */
  readonly timeline?: Timeline;
}

/** What a call needs to know of the step that it runs in. */
export interface StepContext {
  readonly step: number;
  readonly batch: Batch;
  /** Where the batch's groups stand in the step: they number the randomness of what is sampled. */
  readonly places: readonly number[];
  /** Rounds of a refill, from 1. */
  readonly round: number;
  /** Of a graph that refills. */
  readonly rounds: Rounds | null;
  /** States as the step began. */
  readonly states: ReadonlyMap<string, number>;
  /** Takes what a call writes to a state: the next step begins with it. */
  readonly write: (state: string, value: number) => void;
  readonly versions: StepVersions;
  readonly onPhase?: ((call: string, done: number, of: number) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export class Calls {
  readonly #bound = new Map<string, BoundCall>();
  readonly #generators = new Map<string, Generator>();

  /** Allocates inputs, outputs and caches of every call; nothing is allocated on a device afterwards. */
  constructor(readonly engine: Engine, readonly input: StageInput) {
    const { graph, programs, plan } = input;
    for (const call of graph.calls) {
      if (isHostCall(call)) continue;
      const run = input.schedule.step.find((i) => i.op === "run" && i.call === call.id)!;
      const replica = run.op === "run" && run.replica !== null ? engine.replica(run.replica) : null;
      const bound = new BoundCall(
        engine,
        call,
        programs,
        placementOf(plan, call, run.devices, replica),
        input.timeline,
      );
      this.#bound.set(call.id, bound);
      if (call.kind !== "generate") continue;
      const { cache, ranks } = programs.generate[call.id]!;
      const prefillTokens = ranks[0]![0]!.prefill.maxima.tokens;
      this.#generators.set(call.id, new Generator(bound, { ...cache, prefillTokens }));
    }
  }

  /** Metrics of a call that has any; the others only write fields. */
  async run(call: Call, context: StepContext): Promise<TrainMetrics | void> {
    const bound = this.#bound.get(call.id);
    if (bound) bound.step = context.step + 1;
    switch (call.kind) {
      case "generate":
        return await this.#generate(call, context);
      case "infer":
        return await this.#infer(call, context);
      case "score":
        return await this.#score(call, context);
      case "compute":
        return await this.#compute(call, context);
      case "train":
        return await this.#train(call, context);
      case "select":
        return select(call, context.batch);
      case "refill":
        context.rounds!.end();
        return context.rounds!.metrics;
    }
  }

  /** Floating point operations that a call has submitted so far. */
  flopsOf(call: Call): number {
    return this.#bound.get(call.id)?.flops ?? 0;
  }

  #of(call: Call): BoundCall {
    return this.#bound.get(call.id)!;
  }

  async #generate(call: GenerateCall, context: StepContext): Promise<void> {
    const { step, batch, places, round, onPhase, signal } = context;
    const replica = this.#fresh(call), stops = this.input.stops[call.id] ?? [], { version } = replica;
    const { samples, maxNewTokens } = call.sampling;
    const kept = keptWidth(this.input.graph, call.writes.tokens);
    const most = batch.sequences * maxNewTokens, prompts = this.#prompts(call, batch);
    const generator = this.#generators.get(call.id)!, { seed, tools, decode, encode } = this.input;
    const key = (...more: readonly (string | number)[]) =>
      streamKey(seed, call.id, step, ...round > 1 ? ["round", round] : [], ...more);
    const request: GenerateRequest = {
      prompts,
      indices: places,
      samples,
      maxNewTokens,
      ...(kept > 0 && { kept }),
      stops,
      key: key(),
      maxPositions: this.engine.models[call.model]!.config.maxPositions,
      onTokens: (n) => onPhase?.(call.id, n, most),
      check: () => {
        if (replica.version === version) return;
        throw new Error(
          `Cannot go on in ${call.id}: its cache was made by version ${version} of ${call.model} and ${replica.name} ` +
            `holds version ${replica.version} now, generate the step again`,
        );
      },
      ...(signal && { signal }),
    };
    const responses = call.tools
      ? await converse((turn) => generator.run(turn), request, {
        call: call.id,
        tools: tools[call.id]!,
        maxTurns: call.maxTurns!,
        seconds: this.input.toolSeconds,
        decode,
        encode: (text) => encode(text, { bos: false }),
        keyOf: (turn) => key("turn", turn),
      })
      : await generator.run(request);
    putResponses(batch, call, prompts, responses, version!, this.input.decode);
  }

  /** The call's replica, which must hold weights as new as the call asks for. */
  #fresh(call: InferCall | GenerateCall | TrainCall): Replica {
    const { replica } = this.#of(call).placement;
    checkReplica(call, replica!, this.engine.home(call.model));
    return replica!;
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

  async #infer(call: InferCall, { batch, versions, signal }: StepContext): Promise<void> {
    const column = batch.tokensOf(call.reads.tokens!), bound = this.#of(call), { dp } = bound.strategy;
    this.#fresh(call);
    versions.check(call, column);
    const ports = Object.keys(call.writes) as InferPort[];
    const seen = this.input.retokenize(call.model, column, batch);
    const replicas = Array.from(
      { length: dp },
      (_, d) => Array.from({ length: bound.slots(0) }, (_, slot) => bound.staged("infer", d, slot)),
    );
    const results = await infer(replicas, seen, ports, signal);
    for (const port of ports) {
      const field = call.writes[port]!;
      batch.putFlat(field, this.input.graph.fields[field]!, results[port]!);
    }
  }

  async #score(call: ScoreCall, { batch, onPhase, signal }: StepContext): Promise<void> {
    const scorer = this.input.scorers.get(call.id)!;
    const progress = (done: number) => onPhase?.(call.id, done, batch.sequences);
    const values = await scorer.run(call, batch, progress, signal);
    const [field] = Object.values(call.writes);
    batch.numbers.set(field!, { per: "sequence", values });
  }

  async #compute(call: ComputeCall, { batch, states, write }: StepContext): Promise<void> {
    const binding = this.#of(call).binding("compute", 0);
    const results = await compute(binding, call, batch, states);
    for (const [port, field] of Object.entries(call.writes)) {
      batch.putFlat(field, this.input.graph.fields[field]!, results[port]!);
    }
    for (const [state, output] of Object.entries(call.states)) write(state, results[output]![0]!);
  }

  async #train(
    call: TrainCall,
    { step, batch, states, versions, onPhase }: StepContext,
  ): Promise<TrainMetrics> {
    const replica = this.#fresh(call), spec = this.input.graph.models[call.model]!;
    const tokens = call.reads.tokens!, column = batch.tokensOf(tokens);
    versions.check(call, column);
    const generate = this.input.graph.calls.find((c): c is GenerateCall =>
      c.kind === "generate" && c.model === call.model && c.writes.tokens === tokens
    );
    // An earlier train call of this step, or lag, has moved the weights away from those that sampled.
    const same = column.versions.every((version) => version === replica.version);
    const result = await train(this.#of(call), {
      call,
      batch,
      tokens,
      together: this.input.programs.train[call.id]!.together,
      optimizer: spec.optimizer!,
      updates: replica.updates,
      totalUpdates: this.input.totalUpdates[call.model]!,
      states,
      key: (epoch) => streamKey(this.input.seed, call.id, step, epoch),
      sampledLogprobs: same ? generate?.writes.logprobs ?? null : null,
      onMicroBatch: (done, of) => onPhase?.(call.id, done, of),
      onUpdate: (begun) => void (replica.torn = begun),
    });
    replica.torn = false;
    replica.updates = result.updates;
    replica.version!++;
    return result.metrics;
  }

  dispose(): void {
    for (const b of this.#bound.values()) b.dispose();
  }
}

/** A call without an assignment is arithmetic on one device. */
function placementOf(
  plan: {
    readonly assignments: ExecutionPlan["assignments"];
    readonly cluster: Pick<Cluster, "devicesPerNode">;
  },
  call: Call,
  devices: readonly number[],
  replica: Replica | null,
) {
  const assignment = plan.assignments[call.id];
  return assignment
    ? { devices: devicesOf(assignment.mesh, plan.cluster), strategy: assignment.strategy, replica }
    : { devices, strategy: { dp: 1, tp: 1, pp: 1 }, replica: null };
}
