/** Workflow → everything a run needs: data, plan, programs, byte table. Nothing is allocated on the device yet. */
import type { Storage } from "../compiler/models/storage.ts";
import { compilePlan, type DataSizes, type Programs } from "../compiler/programs.ts";
import { canonical, digest } from "../ir/digest.ts";
import { checkGraph } from "../ir/check.ts";
import type { CallGraph, GenerateCall } from "../ir/graph.ts";
import type { Devices } from "../ir/notation.ts";
import type { Cluster, ExecutionPlan, ParallelStrategy, Schedule } from "../ir/plan.ts";
import { type DataSet, loadData } from "../engine/data.ts";
import { sameVocabulary } from "../engine/retokenize.ts";
import type { PlanFile } from "../planner/plan_file.ts";
import { planGraph } from "../planner/plan_graph.ts";
import { schedulesOf } from "../planner/schedule.ts";
import type { AutoPlan } from "./auto_plan.ts";
import type { LoadedModel } from "./models.ts";
import { deviceBytes } from "./pools.ts";
import { dataSizes } from "./sizes.ts";

/** One graph ready to be bound: the step's, or the evaluation's. */
export interface PreparedGraph {
  readonly graph: CallGraph;
  readonly digest: string;
  readonly data: DataSet;
  readonly sizes: DataSizes;
  readonly plan: ExecutionPlan;
  readonly schedule: Schedule;
  readonly programs: Programs;
  readonly stops: Readonly<Record<string, readonly number[]>>;
  /** Where neither a plan nor a strategy was given for several devices. */
  readonly planned?: AutoPlan;
  /** The same programs with so many KV pages for each generate call. */
  readonly withPages: (pages: Readonly<Record<string, number>>) => Programs;
}

export interface Machine {
  readonly devices: Devices;
  /** Of each device. */
  readonly threads: number;
  /** Of all virtual devices and the host together; with GPUs what the host has. */
  readonly memoryBytes: number;
  /** Of the GPUs that devices are on. */
  readonly gpuBytes?: ReadonlyMap<number, number>;
  /** Shipped profile that plans are searched for with; "cpu" by default. */
  readonly profile?: string;
  /** One layout for all calls on all devices. */
  readonly strategy?: ParallelStrategy;
  readonly planFile?: PlanFile;
  readonly microBatchTokens?: number;
  readonly recompute?: "nothing" | "cheap" | "layers";
  /** What every model's numbers are stored in; f32 by default. */
  readonly storage?: Storage;
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
  models: Readonly<Record<string, LoadedModel>>,
  machine: Machine,
  seed: number,
): Promise<PreparedGraph[]> {
  const prepared: Omit<PreparedGraph, "schedule">[] = [];
  for (const graph of graphs) {
    const evaluated = graphs.slice(1).flatMap((g) => g.calls.map((c) => c.id));
    prepared.push(await prepareGraph(graph, models, machine, seed, prepared, evaluated));
  }
  const schedules = schedulesOf(prepared);
  return prepared.map((p, i) => ({ ...p, schedule: schedules[i]! }));
}

/**
 * Reads the graph's data, plans and compiles it.
 *
 * @param earlier graphs of the same run: data that one of them has read is not read again
 * @param evaluated calls of the run's evaluation
 */
async function prepareGraph(
  graph: CallGraph,
  models: Readonly<Record<string, LoadedModel>>,
  machine: Machine,
  seed: number,
  earlier: readonly Omit<PreparedGraph, "schedule">[],
  evaluated: readonly string[],
): Promise<Omit<PreparedGraph, "schedule">> {
  checkGraph(graph);
  const actor = tokenizerOwner(graph, models),
    generates = graph.calls.filter((c): c is GenerateCall => c.kind === "generate");
  const maxPositions = Math.min(
    ...Object.values(models).filter((m) => m.spec.head !== "reward").map((m) => m.config.maxPositions),
  );
  const sameData = earlier.find((e) =>
    canonical(e.graph.source) === canonical(graph.source) && tokenizerOwner(e.graph, models) === actor &&
    e.graph.calls.some((c) => c.kind === "generate") === generates.length > 0
  );
  const data = sameData?.data ?? await loadData(graph.source, {
    seed,
    tokenizer: actor.tokenizer,
    vocabulary: actor.config.vocab,
    maxTokens: generates.length ? maxPositions - 1 : maxPositions,
  });
  const sizes = dataSizes(graph, data, maxPositions, actor.tokenizer);
  checkMiniBatches(graph, sizes);
  const configs = Object.fromEntries(Object.entries(models).map(([k, m]) => [k, m.config]));
  const cluster = clusterOf(machine), free = !machine.strategy && !machine.planFile;
  const planned = earlier[0]?.planned ??
    (free && !earlier[0] && cluster.nodes * cluster.devicesPerNode > 1
      // The planner is no part of a run on one device.
      ? await (await import("./auto_plan.ts")).autoPlan(
        graph,
        models,
        { cluster, profile: machine.profile ?? "cpu" },
        sizes,
        data,
      )
      : undefined);
  const file = machine.planFile ?? planned?.file;
  const plan = planGraph({
    graph,
    configs,
    cluster,
    sizes,
    reread: rereadTokens(models, actor, sizes.longest),
    ...(machine.strategy && { strategy: machine.strategy }),
    ...(file && { file: planned ? withWishes(file, machine) : file }),
    ...(machine.microBatchTokens !== undefined && { microBatchTokens: machine.microBatchTokens }),
    ...(machine.recompute !== undefined && { recompute: machine.recompute }),
    ...(earlier[0] ? { of: earlier[0] } : { evaluated }),
  });
  const stops = Object.fromEntries(generates.map((c) => [c.id, stopIds(c, models[c.model]!)]));
  const counts = Object.fromEntries(Object.entries(stops).map(([k, v]) => [k, v.length]));
  const withPages = (pages: Readonly<Record<string, number>>) =>
    compilePlan(graph, plan, configs, sizes, counts, pages);
  return {
    graph,
    digest: digest(graph),
    data,
    sizes,
    plan,
    programs: withPages({}),
    stops,
    ...(planned && { planned }),
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

/** Every mini-batch has at least one group: said before anything is written rather than in the first step. */
function checkMiniBatches(graph: CallGraph, sizes: DataSizes): void {
  const groups = sizes.sequences / sizes.group;
  for (const call of graph.calls) {
    if (call.kind !== "train" || call.minibatches <= groups) continue;
    throw new RangeError(
      `Cannot run ${graph.name}: ${call.id} makes ${call.minibatches} mini-batches of a batch with ${groups} groups, ` +
        `lower minibatches or raise the batch`,
    );
  }
}

/** The model whose tokenizer reads the data: the one that generates, else the first that reads tokens. */
export function tokenizerOwner(graph: CallGraph, models: Readonly<Record<string, LoadedModel>>): LoadedModel {
  const call = graph.calls.find((c) => c.kind === "generate") ?? graph.calls.find((c) => "model" in c);
  if (!call || !("model" in call)) {
    throw new Error(`Cannot run ${graph.name}: no call uses a model, give its flow a call of one`);
  }
  return models[call.model]!;
}

/** Without a tokenizer the ids of config.json are all there is. */
function stopIds(call: GenerateCall, model: LoadedModel): readonly number[] {
  if (call.sampling.ignoreEos) return call.sampling.stop;
  return [...new Set([...call.sampling.stop, ...(model.tokenizer?.stopIds ?? model.config.eosTokens)])];
}
