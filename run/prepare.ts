/** Workflow → everything a run needs: data, plan, programs, byte table. Nothing is allocated on the device yet. */
import { compilePlan, type Programs } from "../compiler/programs.ts";
import type { CallGraph } from "../ir/graph.ts";
import type { Cluster, ExecutionPlan, Schedule } from "../ir/plan.ts";
import { sameVocabulary } from "../engine/retokenize.ts";
import type { CostInput } from "../planner/call_cost.ts";
import type { PlanFile } from "../planner/plan_file.ts";
import { planGraph } from "../planner/plan_graph.ts";
import { schedulesOf } from "../planner/schedule.ts";
import type { AutoPlan } from "./auto_plan.ts";
import { costInput } from "./assumptions.ts";
import { type Machine, onGpus } from "./machine.ts";
import type { LoadedModel } from "./models.ts";
import type { Prediction } from "./prediction.ts";
import { deviceBytes } from "./pools.ts";
import { type ReadGraph, readGraph, tokenizerOwner } from "./read_graph.ts";

/** One graph ready to be bound: the step's, or the evaluation's. */
export interface PreparedGraph extends ReadGraph {
  readonly plan: ExecutionPlan;
  readonly schedule: Schedule;
  readonly programs: Programs;
  /** Where neither a plan nor a strategy was given for several devices. */
  readonly planned?: AutoPlan;
  /** What the plan of a step on several devices, or from a file, promises. */
  readonly predicted?: Prediction;
  /** The same programs with so many KV pages for each generate call. */
  readonly withPages: (pages: Readonly<Record<string, number>>) => Programs;
}

type Models = Readonly<Record<string, LoadedModel>>;
type Placed = Omit<PreparedGraph, "schedule">;

/** What a graph's plan may come from, beside the machine's own. */
export interface PlanSource {
  /** A plan that replaces whatever the machine says. */
  readonly planned?: AutoPlan;
  /** What such a plan answers, where it is not what the machine and the data say. */
  readonly input?: CostInput;
  /** Told what a person should know of how the plan was found. */
  readonly note?: (line: string) => void;
}

const clusterOf = (machine: Machine): Cluster => ({
  nodes: machine.devices.nodes,
  devicesPerNode: machine.devices.perNode,
  memoryBytes: Math.floor(deviceBytes(machine)),
  links: [],
});

/**
 * Reads the data of all graphs of a run (the step's first, then the evaluation's), plans and compiles them. They have one set
 * of replicas.
 */
export async function prepareGraphs(
  graphs: readonly CallGraph[],
  models: Models,
  machine: Machine,
  seed: number,
  source: PlanSource = {},
): Promise<PreparedGraph[]> {
  const read: ReadGraph[] = [];
  for (const graph of graphs) read.push(await readGraph(graph, models, seed, read));
  return await placeGraphs(read, models, machine, source);
}

/** Plans and compiles graphs whose data are known: again, where a run goes on under another plan. */
export async function placeGraphs(
  read: readonly ReadGraph[],
  models: Models,
  machine: Machine,
  source: PlanSource = {},
): Promise<PreparedGraph[]> {
  const placed: Placed[] = [], evaluated = read.slice(1).flatMap((g) => g.graph.calls.map((c) => c.id));
  for (const one of read) {
    placed.push(await placeGraph(one, models, machine, source, placed[0] ?? null, evaluated));
  }
  const schedules = schedulesOf(placed);
  return placed.map((p, i) => ({ ...p, schedule: schedules[i]! }));
}

/**
 * @param main graph of the steps, placed, when this one is an evaluation's
 * @param evaluated calls of the run's evaluation
 */
async function placeGraph(
  read: ReadGraph,
  models: Models,
  machine: Machine,
  { planned: given, input: asked, note = () => {} }: PlanSource,
  main: Placed | null,
  evaluated: readonly string[],
): Promise<Placed> {
  const { graph, sizes, data, stops } = read, actor = tokenizerOwner(graph, models);
  const configs = Object.fromEntries(Object.entries(models).map(([k, m]) => [k, m.config]));
  const cluster = clusterOf(machine), { assumptions } = machine;
  // The planner is no part of a run on one device, unless a plan is given for it.
  const input = main || !assumptions
    ? null
    : asked ?? costInput(graph, models, cluster, sizes, data, assumptions);
  const searches = input && !given && !machine.strategy && !machine.planFile;
  const planned = main?.planned ?? given ??
    (searches ? await (await import("./auto_plan.ts")).autoPlan(input, note) : undefined);
  const file = planned?.file ?? machine.planFile;
  const plan = planGraph({
    graph,
    configs,
    cluster,
    sizes,
    reread: rereadTokens(models, actor, sizes.longest),
    ...(machine.strategy && !planned && { strategy: machine.strategy }),
    ...(file && { file: planned ? withWishes(file, machine) : file }),
    ...(machine.microBatchTokens !== undefined && { microBatchTokens: machine.microBatchTokens }),
    // A GPU makes a head's logits again in a percent of a step, and its memory is dear.
    recompute: machine.recompute ?? (onGpus(machine.devices) ? "logits" : "nothing"),
    ...(main ? { of: main } : { evaluated }),
  });
  const predicted = input && (await import("./prediction.ts")).predictionOf(input, plan);
  const counts = Object.fromEntries(Object.entries(stops).map(([k, v]) => [k, v.length]));
  const withPages = (pages: Readonly<Record<string, number>>) =>
    compilePlan(graph, plan, configs, sizes, counts, pages, onGpus(machine.devices) ? { overlap: {} } : {});
  return {
    ...read,
    plan,
    programs: withPages({}),
    ...planned && { planned },
    ...predicted && { predicted },
    withPages,
  };
}

/** What the user wishes for all calls wins over what was searched for. */
function withWishes(file: PlanFile, { microBatchTokens, recompute }: Machine): PlanFile {
  const calls = Object.entries(file.calls).map(([id, call]) => [id, {
    ...call,
    ...microBatchTokens !== undefined && { microBatchTokens },
    ...recompute !== undefined && { recompute },
  }]);
  return { ...file, calls: Object.fromEntries(calls) };
}

/**
 * Tokens of the longest sequence for reward models with a vocabulary of their own. How many a response will have is not
 * known before it is written: a letter-by-letter tokenizer needs about four times as many as a usual one, a template more.
 */
const rereadTokens = (models: Readonly<Record<string, LoadedModel>>, owner: LoadedModel, longest: number) =>
  Object.fromEntries(
    Object.values(models).filter((m) => m.spec.head === "reward" && !sameVocabulary(m, owner))
      .map((m) => [m.name, Math.min(m.config.maxPositions, 4 * longest + 256)]),
  );
