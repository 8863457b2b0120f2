/** A run's graphs on its devices under one plan: programs, memory, stages. A run that plans again has several, one after the other. */
import type { Workflow } from "../dsl/workflow.ts";
import type { Devices } from "../engine/devices.ts";
import { Engine } from "../engine/engine.ts";
import { spareRows } from "../engine/refill.ts";
import { retokenizer } from "../engine/retokenize.ts";
import type { Scorer } from "../engine/score.ts";
import { Stage } from "../engine/stage.ts";
import type { Timeline } from "../engine/timeline.ts";
import type { MemoryPlan, MemoryRow } from "../planner/memory.ts";
import { checkedMemory, fitPages, rotaryPositions } from "./memory.ts";
import type { Machine } from "./machine.ts";
import { engineModel, type LoadedModel, tokenizerOf } from "./models.ts";
import type { PreparedGraph } from "./prepare.ts";
import { tokenizerOwner } from "./read_graph.ts";
import { scratchOf } from "./scratch.ts";

/** What stays the same under every plan of a run. */
export interface Deployment {
  readonly workflow: Workflow;
  readonly models: Readonly<Record<string, LoadedModel>>;
  readonly devices: Devices;
  readonly machine: Machine;
  readonly steps: number;
  readonly seed: number;
  /** Deadline of a tool's answer. */
  readonly toolSeconds: number;
  readonly scorers: (graph: PreparedGraph["graph"]) => ReadonlyMap<string, Scorer>;
  readonly timeline: Timeline;
}

/** Graphs whose memory was looked at and fits. */
export interface Fitted {
  readonly main: PreparedGraph;
  readonly held: PreparedGraph | null;
  readonly memory: MemoryPlan;
}

/** The graphs with as many KV pages as there is memory for. Throws before anything is allocated when they do not fit. */
export function fitted(full: readonly PreparedGraph[], d: Deployment): Fitted {
  const scratch = scratchOf(d.devices.all[0]!, full), prepared = fitPages(full, d.models, scratch, d.machine);
  const memory = checkedMemory(prepared, d.models, scratch, d.machine);
  return { main: prepared[0]!, held: prepared[1] ?? null, memory };
}

export class Deployed {
  #disposed = false;

  private constructor(
    readonly main: PreparedGraph,
    readonly held: PreparedGraph | null,
    readonly table: readonly MemoryRow[],
    readonly engine: Engine,
    readonly stage: Stage,
    readonly evaluation: Stage | null,
  ) {}

  /** Allocates and loads. */
  static async on({ main, held, memory }: Fitted, d: Deployment): Promise<Deployed> {
    const { models } = d, graphs = held ? [main, held] : [main];
    using opened = new DisposableStack();
    const engine = await Engine.create({
      devices: d.devices,
      cluster: main.plan.cluster,
      models: Object.fromEntries(
        Object.entries(models).map(([name, m]) => [name, engineModel(m, rotaryPositions(graphs, m))]),
      ),
      states: main.graph.states,
      schedule: main.schedule,
      memory,
    });
    opened.adopt(engine, (e) => e.dispose());
    const stage = (p: PreparedGraph) => opened.adopt(stageOf(p, engine, main, d), (s) => s.dispose());
    const deployed = new Deployed(main, held, memory.rows, engine, stage(main), held && stage(held));
    opened.move();
    return deployed;
  }

  /** @param devices closed before memory goes, where nothing uses them afterwards: what they still run may write to it */
  dispose(devices?: Devices): void {
    if (this.#disposed) return;
    this.#disposed = true;
    this.stage.dispose();
    this.evaluation?.dispose();
    devices?.[Symbol.dispose]();
    this.engine.dispose();
  }
}

function stageOf(p: PreparedGraph, engine: Engine, main: PreparedGraph, d: Deployment): Stage {
  const { models } = d, owner = tokenizerOwner(p.graph, models);
  return new Stage(engine, {
    graph: p.graph,
    plan: p.plan,
    schedule: p.schedule,
    programs: p.programs,
    scorers: d.scorers(p.graph),
    stops: p.stops,
    decode: (ids, after) => owner.tokenizer?.decode(ids, { skipSpecial: true, after }) ?? "",
    encode: (text, options) => tokenizerOf(owner).encode(text, options),
    tools: d.workflow.tools,
    toolSeconds: d.toolSeconds,
    retokenize: retokenizer(owner, models),
    seed: d.seed,
    spare: (count, at) => spareRows(p.data.training, count, { seed: d.seed, ...at }),
    totalUpdates: totalUpdates(p, d.steps),
    // Evaluations come between steps and are no part of them.
    ...(p === main && { timeline: d.timeline }),
  });
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
