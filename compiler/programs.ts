/** Compiles every call of a graph under its assignment: (graph, plan, models, sizes) → programs. */
import {
  type CallGraph,
  type GenerateCall,
  type InferCall,
  isHostCall,
  type ModelSpec,
  type TrainCall,
} from "../ir/graph.ts";
import { groupAt, keptWidth } from "../ir/groups.ts";
import type { Assignment, ExecutionPlan } from "../ir/plan.ts";
import type { Program } from "../ir/program.ts";
import {
  compileCompute,
  compileCopyPages,
  compileDecode,
  compileFold,
  compileInfer,
  compilePrefill,
  compileTrain,
  compileUpdate,
  type InferOutput,
  type RankTrain,
} from "./compile.ts";
import { type Grid, type Shard, shardsOf } from "./layout.ts";
import type { ModelConfig } from "./models/config.ts";
import {
  type CacheSizes,
  cacheSizes,
  type DataSizes,
  generateMaxima,
  microMaxima,
  stepMaxima,
  together,
} from "./sizes.ts";

export { type CacheSizes, type DataSizes, generateGroups } from "./sizes.ts";

/** What a rank runs to generate. */
export interface RankGenerate {
  readonly prefill: Program;
  readonly decode: Program;
  readonly copyPages: Program;
}
export interface GeneratePrograms {
  readonly ranks: Grid<RankGenerate>;
  readonly cache: CacheSizes;
}

/** Programs of a train call. */
export interface TrainPrograms {
  readonly ranks: Grid<RankTrain>;
  /** Loss and metrics of a mini-batch, from the sums that the last stage leaves. */
  readonly fold: Program;
  /** Neighbouring sequences that a micro-batch must not part. */
  readonly together: number;
}

/** Programs by call; those of a model by stage and rank of the tensor-parallel group. */
export interface Programs {
  readonly generate: Readonly<Record<string, GeneratePrograms>>;
  readonly infer: Readonly<Record<string, Grid<Program>>>;
  readonly train: Readonly<Record<string, TrainPrograms>>;
  /** By trained model, and last by rank of the data-parallel group. */
  readonly update: Readonly<Record<string, Grid<readonly Program[]>>>;
  /** The same behind a closing backward pass, of models whose train calls have one. */
  readonly summedUpdate: Readonly<Record<string, Grid<readonly Program[]>>>;
  readonly compute: Readonly<Record<string, Program>>;
}

export interface CompilePlanOptions {
  /**
   * Devices compute and communicate at the same time: gradients are summed during the last backward pass, `bytes` at once at least,
   * and not behind it.
   */
  readonly overlap?: { readonly bytes?: number };
}

/**
 * Throws when a call cannot be compiled under its assignment.
 *
 * @param pages of the KV cache of a rollout of each generate call; as many as all its slots can use where none is given
 */
export function compilePlan(
  graph: CallGraph,
  plan: ExecutionPlan,
  configs: Readonly<Record<string, ModelConfig>>,
  sizes: DataSizes,
  stops: Readonly<Record<string, number>>,
  pages: Readonly<Record<string, number>> = {},
  o: CompilePlanOptions = {},
): Programs {
  const generate: Record<string, GeneratePrograms> = {}, infer: Record<string, Grid<Program>> = {};
  const train: Record<string, TrainPrograms> = {}, update: Record<string, Grid<readonly Program[]>> = {};
  const compute: Record<string, Program> = {}, summedUpdate: Record<string, Grid<readonly Program[]>> = {};
  for (const call of graph.calls) {
    if (isHostCall(call)) continue;
    const group = groupAt(graph, call, sizes.group),
      here = { ...sizes, group, sequences: sizes.sequences / sizes.group * group };
    if (call.kind === "compute") {
      compute[call.id] = compileCompute(call.expr, { maxima: stepMaxima(here), fields: graph.fields });
      continue;
    }
    const config = configs[call.model]!, model = graph.models[call.model]!, a = plan.assignments[call.id]!;
    const shards = shardsOf(config, model.head, a.strategy);
    if (call.kind === "generate") {
      const o = { maxNew: call.sampling.maxNewTokens, stops: stops[call.id] ?? 0, pages: pages[call.id] };
      generate[call.id] = generatePrograms(call, shards, a, here, cacheSizes(config, a, here, o));
    } else if (call.kind === "infer") infer[call.id] = inferPrograms(call, graph, shards, a, here);
    else {
      train[call.id] = trainPrograms(call, graph, shards, a, here, o);
      update[call.model] ??= updatePrograms(model, shards, a);
      if (o.overlap && a.strategy.dp > 1) summedUpdate[call.model] ??= updatePrograms(model, shards, a, true);
    }
  }
  return { generate, infer, train, update, summedUpdate, compute };
}

/** One program for every rank of a stage and a tensor-parallel group. */
const onEach = <T>(shards: Grid<Shard>, compile: (shard: Shard) => T): Grid<T> =>
  shards.map((stage) => stage.map(compile));

function generatePrograms(
  call: GenerateCall,
  shards: Grid<Shard>,
  a: Assignment,
  s: DataSizes,
  cache: CacheSizes,
): GeneratePrograms {
  const { prefill, decode } = generateMaxima(a, s, cache), o = { sampling: call.sampling, ...cache };
  const ranks = onEach(shards, (shard) => ({
    prefill: compilePrefill(shard, { ...o, maxima: prefill }),
    decode: compileDecode(shard, { ...o, maxima: decode }),
    copyPages: compileCopyPages(shard, { ...o, maxima: decode }),
  }));
  return { ranks, cache };
}

function inferPrograms(
  call: InferCall,
  graph: CallGraph,
  shards: Grid<Shard>,
  a: Assignment,
  s: DataSizes,
): Grid<Program> {
  const outputs = Object.keys(call.writes) as InferOutput[], kept = keptWidth(graph, call.reads.tokens);
  return onEach(shards, (shard) => compileInfer(shard, { maxima: microMaxima(a, s), outputs, kept }));
}

function trainPrograms(
  call: TrainCall,
  graph: CallGraph,
  shards: Grid<Shard>,
  a: Assignment,
  s: DataSizes,
  { overlap }: CompilePlanOptions,
): TrainPrograms {
  const kept = keptWidth(graph, call.reads.tokens);
  const o = {
    loss: call.loss,
    fields: graph.fields,
    recompute: a.recompute,
    maxima: microMaxima(a, s),
    kept,
    ...overlap && { sums: { dp: a.strategy.dp, zero: a.zero, ...overlap } },
  };
  return {
    ranks: onEach(shards, (shard) => compileTrain(shard, o)),
    fold: compileFold(call.loss, graph.fields),
    together: together(call, s.group),
  };
}

function updatePrograms(
  model: ModelSpec,
  shards: Grid<Shard>,
  { strategy: { dp }, zero }: Assignment,
  summed = false,
): Grid<readonly Program[]> {
  const one = (shard: Shard, rank: number) =>
    compileUpdate(shard, model.optimizer!, { dp, rank, zero, summed });
  return onEach(shards, (shard) => Array.from({ length: dp }, (_, rank) => one(shard, rank)));
}
