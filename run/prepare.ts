/** Workflow → everything a run needs: data, plan, programs, byte table. Nothing is allocated on the device yet. */
import { compilePlan, type DataSizes, type Programs } from "../compiler/programs.ts";
import { canonical, digest } from "../ir/digest.ts";
import { checkGraph } from "../ir/check.ts";
import { checkPlan } from "../ir/check_plan.ts";
import type { CallGraph, GenerateCall } from "../ir/graph.ts";
import type { Cluster, ExecutionPlan, Schedule } from "../ir/plan.ts";
import { type DataSet, loadData } from "../engine/data.ts";
import { sameVocabulary } from "../engine/retokenize.ts";
import { planSingle } from "../planner/single.ts";
import { scheduleOf } from "../planner/schedule.ts";
import type { LoadedModel } from "./models.ts";
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
  /** The same programs with so many KV pages for each generate call. */
  readonly withPages: (pages: Readonly<Record<string, number>>) => Programs;
}

export interface Machine {
  readonly threads: number;
  readonly memoryBytes: number;
  readonly microBatchTokens?: number;
  readonly recompute?: "nothing" | "cheap" | "layers";
}

const single = (machine: Machine): Cluster => ({
  nodes: 1,
  devicesPerNode: 1,
  memoryBytes: machine.memoryBytes,
  links: [],
});

/**
 * Reads the graph's data, plans and compiles it.
 *
 * @param earlier graphs of the same run: data that one of them has read is not read again
 */
export async function prepareGraph(
  graph: CallGraph,
  models: Readonly<Record<string, LoadedModel>>,
  machine: Machine,
  seed: number,
  earlier: readonly PreparedGraph[] = [],
): Promise<PreparedGraph> {
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
  const plan = planSingle({
    graph,
    digest: digest(graph),
    cluster: single(machine),
    longest: sizes.longest,
    group: sizes.group,
    reread: rereadTokens(models, actor, sizes.longest),
    stepTokens: sizes.longest * sizes.sequences,
    ...(machine.microBatchTokens !== undefined && { microBatchTokens: machine.microBatchTokens }),
    ...(machine.recompute !== undefined && { recompute: machine.recompute }),
  });
  checkPlan(plan, graph);
  const stops = Object.fromEntries(generates.map((c) => [c.id, stopIds(c, models[c.model]!)]));
  const configs = Object.fromEntries(Object.entries(models).map(([k, m]) => [k, m.config]));
  const counts = Object.fromEntries(Object.entries(stops).map(([k, v]) => [k, v.length]));
  const withPages = (pages: Readonly<Record<string, number>>) =>
    compilePlan(graph, plan, configs, sizes, counts, pages);
  return {
    graph,
    digest: plan.graph,
    data,
    sizes,
    plan,
    schedule: scheduleOf(graph, plan),
    programs: withPages({}),
    stops,
    withPages,
  };
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
