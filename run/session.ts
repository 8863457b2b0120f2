/** One run of a workflow: prepared, allocated, then stepped; owns what has to survive from step to step. */
import type { Workflow } from "../dsl/workflow.ts";
import { type Batch, batchOf } from "../engine/batch.ts";
import { type Cursor, DataReader } from "../engine/data.ts";
import { Devices } from "../engine/devices.ts";
import { Engine } from "../engine/engine.ts";
import { pieces } from "../engine/pieces.ts";
import { spareRows } from "../engine/refill.ts";
import { retokenizer } from "../engine/retokenize.ts";
import type { Sample } from "../engine/sample.ts";
import type { Scorer } from "../engine/score.ts";
import { Stage, type StepHooks, type StepResult, type StepRun } from "../engine/stage.ts";
import { Timeline } from "../engine/timeline.ts";
import type { MemoryRow } from "../planner/memory.ts";
import { loadCheckpoint, readRunState, saveCheckpoint } from "./checkpoint.ts";
import { heldOutRows } from "./evaluation.ts";
import { engineModel, type LoadedModel, loadModels, tokenizerOf } from "./models.ts";
import { checkedMemory, fitPages, rotaryPositions } from "./memory.ts";
import { type Machine, type PreparedGraph, prepareGraphs, tokenizerOwner } from "./prepare.ts";

export interface SessionOptions {
  readonly steps: number;
  readonly seed: number;
  readonly machine: Machine;
  /** Deadline of a tool's answer. */
  readonly toolSeconds: number;
  readonly scorers: (graph: PreparedGraph["graph"]) => ReadonlyMap<string, Scorer>;
}

/** Numbers evaluation randomness apart from training's: every evaluation of a run draws the same. */
const EVALUATION_STEP = 2 ** 31;

/** A step that has begun, perhaps before it was asked for. */
interface Begun {
  readonly step: number;
  readonly run: StepRun;
  /** Where in the data it begins and ends. */
  readonly cursor: Cursor;
  readonly after: Cursor;
  readonly stop: AbortController;
}

export class Session {
  #begun: Begun | null = null;
  #reader: DataReader;
  #step = 0;
  /** States as they were when the current step began: what a cancelled step goes back to. */
  #before: { readonly cursor: Cursor; readonly states: readonly (readonly [string, number])[] };

  private constructor(
    readonly workflow: Workflow,
    readonly options: SessionOptions,
    readonly models: Readonly<Record<string, LoadedModel>>,
    readonly main: PreparedGraph,
    readonly held: PreparedGraph | null,
    readonly table: readonly MemoryRow[],
    readonly engine: Engine,
    readonly stage: Stage,
    readonly evaluation: Stage | null,
    /** What every device did in the newest steps. */
    readonly timeline: Timeline,
  ) {
    this.#reader = this.#readerAt();
    this.#before = { cursor: this.#reader.cursor, states: [] };
  }

  /** Plans, checks memory, allocates and loads. Throws before anything is written when the run cannot work. */
  static async open(workflow: Workflow, options: SessionOptions): Promise<Session> {
    const graphs = workflow.evaluation ? [workflow.graph, workflow.evaluation.graph] : [workflow.graph];
    const models = await loadModels({
      ...workflow.graph,
      models: Object.assign({}, ...graphs.map((g) => g.models)),
    }, options.machine.storage);
    const full = await prepareGraphs(graphs, models, options.machine, options.seed);
    using opened = new DisposableStack();
    const { machine } = options, { nodes, perNode, gpus } = machine.devices;
    const devices = opened.use(
      Devices.open({ count: nodes * perNode, threads: machine.threads, ...gpus && { gpus } }),
    );
    const { scratchBytes } = devices.all[0]!;
    const prepared = fitPages(full, models, scratchBytes, machine);
    const [main, held] = prepared as readonly PreparedGraph[] as [PreparedGraph, PreparedGraph?];
    if (held) heldOutRows(held.data, workflow.evaluation!.prompts);
    const memory = checkedMemory(prepared, models, scratchBytes, machine);
    const engine = await Engine.create({
      devices,
      cluster: main.plan.cluster,
      models: Object.fromEntries(
        Object.entries(models).map(([name, m]) => [name, engineModel(m, rotaryPositions(prepared, m))]),
      ),
      states: main.graph.states,
      schedule: main.schedule,
      memory,
    });
    opened.adopt(engine, (e) => e.dispose());
    const timeline = new Timeline(),
      stage = (p: PreparedGraph) => {
        const owner = tokenizerOwner(p.graph, models);
        return new Stage(engine, {
          graph: p.graph,
          plan: p.plan,
          schedule: p.schedule,
          programs: p.programs,
          scorers: options.scorers(p.graph),
          stops: p.stops,
          decode: (ids, after) => owner.tokenizer?.decode(ids, { skipSpecial: true, after }) ?? "",
          encode: (text, options) => tokenizerOf(owner).encode(text, options),
          tools: workflow.tools,
          toolSeconds: options.toolSeconds,
          retokenize: retokenizer(owner, models),
          seed: options.seed,
          spare: (count, at) => spareRows(p.data.training, count, { seed: options.seed, ...at }),
          totalUpdates: totalUpdates(p, options.steps),
          // Evaluations come between steps and are no part of them.
          ...(p === main && { timeline }),
        });
      };
    const session = new Session(
      workflow,
      options,
      models,
      main,
      held ?? null,
      memory.rows,
      engine,
      stage(main),
      held ? stage(held) : null,
      timeline,
    );
    // From here on all of it is the session's to dispose.
    opened.move();
    return session;
  }

  /** Steps completed. */
  get completed(): number {
    return this.#step;
  }

  #readerAt(cursor?: Cursor): DataReader {
    const { graph, data } = this.main;
    return new DataReader(data.training, { seed: this.options.seed, shuffle: graph.source.shuffle }, cursor);
  }

  /**
   * Runs the next step. When it throws (cancelled, NaN), nothing of it counts unless a train call had finished.
   *
   * @param ahead whether generation of the step after it may begin meanwhile: there is one, and nothing comes between
   */
  async step(
    hooks: StepHooks,
    ahead = false,
  ): Promise<{ readonly batch: Batch; readonly result: StepResult }> {
    const begun = this.#begun?.step === this.#step ? this.#begun : this.#begin(this.#step);
    this.#before = { cursor: begun.cursor, states: [...this.engine.states] };
    begun.run.release(hooks);
    this.#begun = ahead && this.stage.looksAhead ? this.#begin(this.#step + 1) : null;
    const result = await begun.run.done;
    this.#step++;
    this.#before = { cursor: begun.after, states: [...this.engine.states] };
    return { batch: begun.run.batch, result };
  }

  #begin(step: number): Begun {
    const { source } = this.main.graph, { cursor } = this.#reader, stop = new AbortController();
    const batch = batchOf(this.#reader.next(source.batch), this.main.sizes.group, source.fields);
    const run = this.stage.begin(step, batch, { signal: stop.signal });
    return { step, run, cursor, after: this.#reader.cursor, stop };
  }

  /** Takes back the step that was begun ahead, if there is one: its rows are read again. */
  async settle(): Promise<void> {
    const begun = this.#begun;
    if (!begun) return;
    this.#begun = null;
    begun.stop.abort(new DOMException("The step was begun ahead and is not wanted", "AbortError"));
    await begun.run.done.catch(() => {});
    this.#reader = this.#readerAt(begun.cursor);
  }

  /** Rows that evaluation uses: those held out of the training data, or the evaluation's own file. */
  get heldOut(): readonly Sample[] {
    if (!this.held || !this.workflow.evaluation) return [];
    return heldOutRows(this.held.data, this.workflow.evaluation.prompts);
  }

  /** Runs the evaluation flow on the held-out rows, in batches, always with the same randomness. */
  async evaluate(hooks: StepHooks): Promise<readonly Batch[]> {
    if (!this.held || !this.evaluation) return [];
    await this.settle();
    const { graph, sizes } = this.held, rows = this.heldOut, batches: Batch[] = [];
    for (let at = 0; at < rows.length; at += graph.source.batch) {
      const batch = batchOf(rows.slice(at, at + graph.source.batch), sizes.group, graph.source.fields);
      await this.evaluation.step(EVALUATION_STEP + at, batch, hooks);
      batches.push(batch);
    }
    return batches;
  }

  /** The text that each token adds, for people. */
  pieces(ids: Int32Array, after: Int32Array): readonly string[] {
    const { tokenizer } = tokenizerOwner(this.main.graph, this.models);
    return tokenizer ? pieces(tokenizer, ids, after) : Array.from(ids, (id) => `${id} `);
  }

  /** The text of tokens without special ones; ids where no tokenizer is. */
  text(ids: Int32Array, after: Int32Array): string {
    const { tokenizer } = tokenizerOwner(this.main.graph, this.models);
    return tokenizer ? tokenizer.decode(ids, { skipSpecial: true, after }) : ids.join(" ");
  }

  /** Writes a checkpoint of the last completed step. */
  async save(folder: string): Promise<string> {
    for (const [name, value] of this.#before.states) this.engine.states.set(name, value);
    return await saveCheckpoint(this.engine, folder, {
      step: this.#step,
      seed: this.options.seed,
      graph: this.main.digest,
      data: this.main.data.digest,
      cursor: this.#before.cursor,
    });
  }

  /** Goes on where a checkpoint stopped. */
  async resume(path: string): Promise<void> {
    const state = await readRunState(path);
    if (state.graph !== this.main.digest || state.seed !== this.options.seed) {
      throw new Error(
        `Cannot resume from ${path}: it was made by another workflow or seed, start in another output folder with --out`,
      );
    }
    const { data } = this.main;
    if (state.data !== data.digest) {
      throw new Error(
        `Cannot resume from ${path}: ${data.path} has changed since, put the file back or start in another output folder`,
      );
    }
    await loadCheckpoint(this.engine, path, state);
    this.#step = state.step;
    this.#reader = this.#readerAt(state.cursor);
    this.#before = { cursor: state.cursor, states: [...this.engine.states] };
  }

  dispose(): void {
    this.stage.dispose();
    this.evaluation?.dispose();
    this.engine.devices[Symbol.dispose]();
    this.engine.dispose();
  }
}

/** Optimizer updates of each model over the run: its schedule's horizon. */
function totalUpdates(p: PreparedGraph, steps: number): Record<string, number> {
  const totals: Record<string, number> = {};
  for (const call of p.graph.calls) {
    if (call.kind === "train") {
      totals[call.model] = (totals[call.model] ?? 0) + steps * call.minibatches * call.epochs;
    }
  }
  return totals;
}
