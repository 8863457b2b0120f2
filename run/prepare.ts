/** Workflow → everything a run needs: data, plan, programs, byte table. Nothing is allocated on the device yet. */
import { parameterBytes } from "../compiler/models/transformer.ts";
import { compilePlan, type DataSizes, type Programs } from "../compiler/programs.ts";
import { digest } from "../ir/digest.ts";
import { checkGraph } from "../ir/check.ts";
import type { CallGraph, GenerateCall, ModelFunctionCall } from "../ir/graph.ts";
import type { Program } from "../ir/program.ts";
import type { Cluster, ExecutionPlan, Schedule } from "../ir/plan.ts";
import { type DataSet, loadData } from "../engine/data.ts";
import { sameVocabulary } from "../engine/retokenize.ts";
import type { Sample } from "../engine/sample.ts";
import { type MemoryRow, memoryTable } from "../planner/memory.ts";
import { planSingle } from "../planner/single.ts";
import { scheduleOf } from "../planner/schedule.ts";
import { hostRows } from "./host_memory.ts";
import { engineModel, type LoadedModel } from "./models.ts";

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

/** Reads the graph's data, plans and compiles it. */
export async function prepareGraph(
  graph: CallGraph,
  models: Readonly<Record<string, LoadedModel>>,
  machine: Machine,
  seed: number,
): Promise<PreparedGraph> {
  checkGraph(graph);
  const actor = tokenizerOwner(graph, models),
    generates = graph.calls.filter((c): c is GenerateCall => c.kind === "generate");
  const maxPositions = Math.min(
    ...Object.values(models).filter((m) => m.spec.head !== "reward").map((m) => m.config.maxPositions),
  );
  const data = await loadData(graph.source, {
    seed,
    tokenizer: actor.tokenizer,
    vocabulary: actor.config.vocab,
    maxTokens: generates.length ? maxPositions - 1 : maxPositions,
  });
  const sizes = dataSizes(graph, generates, data, maxPositions);
  checkMiniBatches(graph, sizes);
  const plan = planSingle({
    graph,
    digest: digest(graph),
    cluster: single(machine),
    longestBlock: sizes.longest * sizes.group,
    reread: rereadTokens(models, actor, sizes.longest),
    stepTokens: sizes.longest * sizes.sequences,
    ...(machine.microBatchTokens !== undefined && { microBatchTokens: machine.microBatchTokens }),
    ...(machine.recompute !== undefined && { recompute: machine.recompute }),
  });
  const stops = Object.fromEntries(generates.map((c) => [c.id, stopIds(c, models[c.model]!)]));
  const configs = Object.fromEntries(Object.entries(models).map(([k, m]) => [k, m.config]));
  const counts = Object.fromEntries(Object.entries(stops).map(([k, v]) => [k, v.length]));
  return {
    graph,
    digest: plan.graph,
    data,
    sizes,
    plan,
    schedule: scheduleOf(graph, plan),
    programs: compilePlan(graph, plan, configs, sizes, counts),
    stops,
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
  if (!call || !("model" in call)) throw new Error(`Cannot run ${graph.name}: no call uses a model`);
  return models[call.model]!;
}

function stopIds(call: GenerateCall, model: LoadedModel): readonly number[] {
  if (call.sampling.ignoreEos) return call.sampling.stop;
  return [...new Set([...call.sampling.stop, ...(model.tokenizer?.stopIds ?? generationStops(model))])];
}

/** Without a tokenizer the ids of config.json are all there is. */
function generationStops(model: LoadedModel): readonly number[] {
  const eos = model.json.eos_token_id;
  return typeof eos === "number" ? [eos] : Array.isArray(eos) ? eos as number[] : [];
}

function dataSizes(
  graph: CallGraph,
  generates: readonly GenerateCall[],
  data: DataSet,
  maxPositions: number,
): DataSizes {
  const rows = [...data.training, ...data.heldOut];
  const most = (f: (s: Sample) => number) => rows.reduce((m, s) => Math.max(m, f(s)), 0);
  if (generates.length) {
    const samples = generates[0]!.sampling.samples,
      other = generates.find((c) => c.sampling.samples !== samples);
    if (other) {
      throw new RangeError(
        `Cannot run ${graph.name}: ${
          generates[0]!.id
        } makes ${samples} samples per prompt and ${other.id} ${other.sampling.samples}, ` +
          `generate calls of one workflow make the same number`,
      );
    }
    const maxNew = Math.max(...generates.map((c) => c.sampling.maxNewTokens)),
      longestPrompt = most((s) => s.prompt?.ids.length ?? 0);
    return {
      sequences: graph.source.batch * samples,
      group: samples,
      longestPrompt,
      longest: Math.min(longestPrompt + maxNew, maxPositions),
      longestResponse: maxNew,
    };
  }
  const pairs = graph.source.kind === "pairs",
    both = (f: (t: { ids: Int32Array; actions: Int32Array }) => number) =>
      most((s) => Math.max(s.tokens ? f(s.tokens) : 0, s.rejected ? f(s.rejected) : 0));
  return {
    sequences: graph.source.batch * (pairs ? 2 : 1),
    group: pairs ? 2 : 1,
    longestPrompt: 0,
    longest: both((t) => t.ids.length),
    longestResponse: both((t) => t.actions.length),
  };
}

/** Rows that the largest rotary table of a model's programs has. */
export function rotaryPositions(graphs: readonly PreparedGraph[], model: LoadedModel): number {
  const bytes = graphs.flatMap(({ graph, programs }) =>
    graph.calls.flatMap((c) =>
      "model" in c && c.model === model.name
        ? programsOf(programs, c).map((p) => p.segmentBytes.constants)
        : []
    )
  );
  return Math.max(0, ...bytes) / (4 * model.config.headDim);
}

function programsOf(programs: Programs, call: ModelFunctionCall): readonly Program[] {
  if (call.kind === "generate") {
    return [programs.generate[call.id]!.prefill, programs.generate[call.id]!.decode];
  }
  return call.kind === "infer" ? [programs.infer[call.id]!] : [programs.train[call.id]!.train];
}

/** Every byte of a run; throws when the device cannot hold it. */
export function byteTable(
  graphs: readonly PreparedGraph[],
  models: Readonly<Record<string, LoadedModel>>,
  scratch: number,
  machine: Machine,
): MemoryRow[] {
  const memory = Object.fromEntries(
    Object.entries(models).map(([name, m]) => {
      const e = engineModel(m, rotaryPositions(graphs, m));
      return [name, {
        parameters: e.parameters,
        trained: m.spec.optimizer !== null,
        constants: e.constants.byteLength,
      }];
    }),
  );
  const largest = Math.max(...Object.values(memory).map((m) => parameterBytes(m.parameters)));
  const rows = memoryTable(graphs.map((g) => g.programs), memory, {
    scratch,
    host: hostRows(graphs, largest),
  });
  const total = rows.reduce((n, r) => n + r.bytes, 0);
  if (total > machine.memoryBytes) {
    const most = [...rows].sort((a, b) => b.bytes - a.bytes).slice(0, 3).map((r) =>
      `${r.name} ${mib(r.bytes)}`
    );
    throw new RangeError(
      `Cannot run ${graphs[0]!.graph.name} on this machine: it needs ${mib(total)} and ${
        mib(machine.memoryBytes)
      } are free ` +
        `(largest: ${
          most.join(", ")
        }), lower the batch, maxNewTokens or microBatchTokens, or set recompute: layers`,
    );
  }
  return rows;
}

const mib = (bytes: number): string => `${Math.ceil(bytes / 2 ** 20)} MiB`;
