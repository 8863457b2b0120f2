/** One run of a workflow: prepared, allocated, then stepped; owns what has to survive from step to step. */
import type { Workflow } from "../dsl/workflow.ts";
import { type Batch, batchOf } from "../engine/batch.ts";
import { type Cursor, DataReader } from "../engine/data.ts";
import { Devices } from "../engine/devices.ts";
import type { Engine } from "../engine/engine.ts";
import { pieces } from "../engine/pieces.ts";
import type { Sample } from "../engine/sample.ts";
import type { Stage, StepHooks, StepResult, StepRun } from "../engine/stage.ts";
import { Timeline } from "../engine/timeline.ts";
import type { MemoryRow } from "../planner/memory.ts";
import { loadCheckpoint, readRunState, saveCheckpoint } from "./checkpoint.ts";
import { Deployed, type Deployment, type Fitted, fitted } from "./deployed.ts";
import { heldOutRows } from "./evaluation.ts";
import { TooLarge } from "./memory.ts";
import { type LoadedModel, loadModels } from "./models.ts";
import { placeGraphs, type PlanSource, type PreparedGraph, prepareGraphs } from "./prepare.ts";
import { tokenizerOwner } from "./read_graph.ts";
import { cheapestChange } from "./refusal.ts";
import { scratchOf } from "./scratch.ts";

export interface SessionOptions
  extends Pick<Deployment, "steps" | "seed" | "machine" | "toolSeconds" | "scorers"> {
  /** Told what a person should know of how the plan was found. */
  readonly note?: (line: string) => void;
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

/** As {@link fitted}; a run that does not fit is told the cheapest change with which it would. */
async function fittedOrAdvised(full: readonly PreparedGraph[], d: Deployment): Promise<Fitted> {
  try {
    return fitted(full, d);
  } catch (error) {
    if (!(error instanceof TooLarge)) throw error;
    const advice = await cheapestChange(full, d.models, scratchOf(d.devices.all[0]!, full), d.machine);
    throw advice === null ? error : new TooLarge(error.state, advice);
  }
}

export class Session {
  #begun: Begun | null = null;
  #reader: DataReader;
  #step = 0;
  /** States as they were when the current step began: what a cancelled step goes back to. */
  #before: {
    readonly cursor: Cursor;
    readonly states: readonly (readonly [string, number])[];
    /** Versions of all homes. */
    readonly versions: ReadonlyMap<string, number | null>;
  };

  private constructor(readonly deployment: Deployment, private deployed: Deployed) {
    this.#reader = this.#readerAt();
    this.#before = this.#now(this.#reader.cursor);
  }

  /** Plans, checks memory, allocates and loads. Throws before anything is written when the run cannot work. */
  static async open(workflow: Workflow, options: SessionOptions): Promise<Session> {
    const graphs = workflow.evaluation ? [workflow.graph, workflow.evaluation.graph] : [workflow.graph];
    const models = await loadModels({
      ...workflow.graph,
      models: Object.assign({}, ...graphs.map((g) => g.models)),
    }, options.machine.storage);
    const { machine, seed, note } = options;
    const full = await prepareGraphs(graphs, models, machine, seed, { ...note && { note } });
    using opened = new DisposableStack();
    const { nodes, perNode, gpus } = machine.devices;
    const devices = opened.use(
      Devices.open({ count: nodes * perNode, threads: machine.threads, ...gpus && { gpus } }),
    );
    const deployment = { ...options, workflow, models, devices, timeline: new Timeline() };
    const prepared = await fittedOrAdvised(full, deployment);
    if (prepared.held) heldOutRows(prepared.held.data, workflow.evaluation!.prompts);
    const session = new Session(deployment, await Deployed.on(prepared, deployment));
    // From here on all of it is the session's to dispose.
    opened.move();
    return session;
  }

  get workflow(): Workflow {
    return this.deployment.workflow;
  }
  get models(): Readonly<Record<string, LoadedModel>> {
    return this.deployment.models;
  }
  /** The step's graph as it is planned now. */
  get main(): PreparedGraph {
    return this.deployed.main;
  }
  /** The evaluation's. */
  get held(): PreparedGraph | null {
    return this.deployed.held;
  }
  get table(): readonly MemoryRow[] {
    return this.deployed.table;
  }
  get engine(): Engine {
    return this.deployed.engine;
  }
  get stage(): Stage {
    return this.deployed.stage;
  }
  get evaluation(): Stage | null {
    return this.deployed.evaluation;
  }
  /** What every device did in the newest steps. */
  get timeline(): Timeline {
    return this.deployment.timeline;
  }

  /** Steps completed. */
  get completed(): number {
    return this.#step;
  }

  #now(cursor: Cursor) {
    const versions = new Map([...this.engine.homes].map(([name, { version }]) => [name, version]));
    return { cursor, states: [...this.engine.states], versions };
  }

  /** Whether the weights are those of the last completed step: a step that failed after it has updated none. */
  get intact(): boolean {
    return [...this.engine.homes].every(([name, { torn, version }]) =>
      !torn && version === this.#before.versions.get(name)
    );
  }

  #readerAt(cursor?: Cursor): DataReader {
    const { graph, data } = this.main;
    return new DataReader(
      data.training,
      { seed: this.deployment.seed, shuffle: graph.source.shuffle },
      cursor,
    );
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
    this.#before = this.#now(begun.cursor);
    begun.run.release(hooks);
    this.#begun = ahead && this.stage.looksAhead ? this.#begin(this.#step + 1) : null;
    const result = await begun.run.done;
    this.#step++;
    this.#before = this.#now(begun.after);
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
      seed: this.deployment.seed,
      graph: this.main.digest,
      data: this.main.data.digest,
      cursor: this.#before.cursor,
    });
  }

  /** Goes on where a checkpoint stopped. */
  async resume(path: string): Promise<void> {
    const state = await readRunState(path);
    if (state.graph !== this.main.digest || state.seed !== this.deployment.seed) {
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
    this.#before = this.#now(state.cursor);
  }

  /** This run under another plan, compiled; nothing changes. Throws one line when the plan is wrong or does not fit. */
  async underPlan(source: PlanSource): Promise<Fitted> {
    const { deployment, main, held } = this, { models, machine } = deployment;
    return fitted(await placeGraphs(held ? [main, held] : [main], models, machine, source), deployment);
  }

  /**
   * Goes on under another plan, between two steps: what a checkpoint has is all that a run is, so one is written under the old
   * plan and read under the new one, and a step that was begun ahead begins again.
   *
   * @param folder of the run's checkpoints
   */
  async switchTo(plan: Fitted, folder: string): Promise<void> {
    await this.settle();
    const path = await this.save(folder);
    this.deployed.dispose();
    this.deployed = await Deployed.on(plan, this.deployment);
    await this.resume(path);
  }

  dispose(): void {
    const { devices } = this.deployment;
    this.deployed.dispose(devices);
    // A plan that could not be gone over to leaves none.
    devices[Symbol.dispose]();
  }
}
