/** The sizes that `deno task bench` shares with its peers, and models of them on a device: random weights, no files. */
import { compilePlan, type DataSizes } from "../compiler/programs.ts";
import { type ModelConfig, parseConfig } from "../compiler/models/config.ts";
import { parameters, ropeTable } from "../compiler/models/transformer.ts";
import { baseModel } from "../compiler/sharing.ts";
import type { Workflow } from "../dsl/workflow.ts";
import type { Devices } from "../engine/devices.ts";
import { Engine, type EngineModel } from "../engine/engine.ts";
import type { Sample } from "../engine/sample.ts";
import { mainThreadScorer } from "../engine/score.ts";
import { Stage } from "../engine/stage.ts";
import type { Timeline } from "../engine/timeline.ts";
import { initializeWeights } from "../engine/weights.ts";
import { checkGraph } from "../ir/check.ts";
import type { CallGraph, ModelSpec } from "../ir/graph.ts";
import type { ParallelStrategy, Recompute } from "../ir/plan.ts";
import { type Compiled, memoryPlan, type MemoryRow } from "../planner/memory.ts";
import { planGraph } from "../planner/plan_graph.ts";
import type { PlanFile } from "../planner/plan_file.ts";
import { schedulesOf } from "../planner/schedule.ts";

export const SIZES = {
  T: {
    hidden_size: 64,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    intermediate_size: 176,
    vocab_size: 512,
  },
  S: {
    hidden_size: 256,
    num_hidden_layers: 4,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    intermediate_size: 688,
    vocab_size: 4096,
  },
  M: {
    hidden_size: 512,
    num_hidden_layers: 8,
    num_attention_heads: 8,
    num_key_value_heads: 4,
    intermediate_size: 1376,
    vocab_size: 32000,
  },
} as const;
export type Size = keyof typeof SIZES;

/** Ids below are a tokenizer's own: padding, begin, end. */
const FIRST_WORD = 3;

export function benchConfig(size: Size): ModelConfig {
  const fixed = {
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: false,
    hidden_act: "silu",
  };
  const llama = { model_type: "llama", architectures: ["LlamaForCausalLM"] };
  return parseConfig({ ...llama, ...SIZES[size], ...fixed }, `bench size ${size}`);
}

/** Operations that the result needs: causal attention counted once, the embedding free, training three times a forward pass. */
export function usefulFlops(c: ModelConfig, tokens: number, context: number, headRows = tokens): number {
  const kv = c.headDim * c.kvHeads,
    layer = 2 * c.hidden * c.hidden + 2 * c.hidden * kv + 3 * c.hidden * c.intermediate;
  return tokens * (2 * c.layers * layer + 4 * c.layers * c.hidden * context) +
    headRows * 2 * c.hidden * c.vocab;
}

/** `rows` sequences of `length` pseudo-random tokens. */
export function benchSequences(c: ModelConfig, rows: number, length: number): Int32Array[] {
  let state = 12345;
  const next = () => state = Math.imul(state, 1664525) + 1013904223 >>> 0;
  // The low bits of a linear congruential generator have short periods.
  const word = () => FIRST_WORD + (next() >>> 8) % (c.vocab - FIRST_WORD);
  return Array.from({ length: rows }, () => Int32Array.from({ length }, word));
}

/** Prompts to continue. */
export const promptRows = (sequences: readonly Int32Array[]): Sample[] =>
  sequences.map((ids, index) => ({ index, prompt: { ids, text: "" }, fields: {} }));

/** Whole sequences; every token but the first is an action. */
export const sequenceRows = (sequences: readonly Int32Array[]): Sample[] =>
  sequences.map((ids, index) => ({
    index,
    tokens: { ids, actions: Int32Array.from({ length: ids.length - 1 }, (_, i) => i + 1) },
    fields: {},
  }));

/** Plans a graph and compiles it, the part of a run's preparation that reads no file. */
export function compileBench(
  graph: CallGraph,
  configs: Readonly<Record<string, ModelConfig>>,
  sizes: DataSizes,
  layout: BenchLayout = {},
): Compiled {
  checkGraph(graph);
  const { strategy = { dp: 1, tp: 1, pp: 1 }, file } = layout,
    devices = layout.devices ?? strategy.dp * strategy.tp * strategy.pp;
  const plan = planGraph({
    graph,
    configs,
    cluster: { nodes: 1, devicesPerNode: devices, memoryBytes: 2 ** 40, links: [] },
    sizes,
    ...(file ? { file } : { strategy }),
    ...(layout.microBatchTokens !== undefined && { microBatchTokens: layout.microBatchTokens }),
    ...(layout.recompute !== undefined && { recompute: layout.recompute }),
  });
  const placed = { graph, plan };
  return {
    ...placed,
    schedule: schedulesOf([placed])[0]!,
    programs: compilePlan(
      graph,
      plan,
      configs,
      sizes,
      {},
      {},
      layout.overlap ? { overlap: layout.overlap } : {},
    ),
  };
}

/** How the calls of a bench are laid out; everything on one device otherwise. */
export interface BenchLayout {
  readonly devices?: number;
  readonly strategy?: ParallelStrategy;
  readonly file?: PlanFile;
  readonly microBatchTokens?: number;
  readonly recompute?: Recompute;
  readonly timeline?: Timeline;
  /** Told what is going to be allocated. */
  readonly onMemory?: (rows: readonly MemoryRow[]) => void;
  /** Gradients are summed during the last backward pass: by default on GPUs, as in a run. */
  readonly overlap?: { readonly bytes?: number } | undefined;
  /** Where weights come from, instead of random numbers made on the host. */
  readonly load?: EngineModel["load"];
}

/** A workflow on devices as a run has it, but for files: one model config, random weights, a tokenizer of one character per id. */
export async function benchStage(
  devices: Devices,
  workflow: Workflow,
  config: ModelConfig,
  sizes: DataSizes,
  layout: BenchLayout = {},
): Promise<Stage> {
  const { graph } = workflow,
    configs = Object.fromEntries(
      Object.entries(graph.models).map(([name, { lora, ema }]) => {
        const { storage, ...single } = config;
        return [name, { ...single, ...(lora && { lora }), ...(storage && !ema && { storage }) }];
      }),
    );
  const gpu = devices.all[0]!.gpu !== null;
  const compiled = compileBench(graph, configs, sizes, { ...gpu && { overlap: {} }, ...layout });
  const models = Object.fromEntries(
    Object.entries(graph.models).map((
      [name, spec],
    ) => [name, { ...randomModel(configs[name]!, spec), ...(layout.load && { load: layout.load }) }]),
  );
  const memory = memoryPlan({
    graphs: [compiled],
    models: Object.fromEntries(
      Object.entries(graph.models).map(([name, { head, optimizer }]) => [name, {
        config: configs[name]!,
        head,
        trained: optimizer !== null,
        base: baseModel(name, graph.models),
        constants: models[name]!.constants.byteLength,
      }]),
    ),
    scratch: devices.all[0]!.scratchBytes,
    host: [],
  });
  layout.onMemory?.(memory.rows);
  const engine = await Engine.create({
    devices,
    cluster: compiled.plan.cluster,
    models,
    states: graph.states,
    schedule: compiled.schedule,
    memory,
  });
  return new Stage(engine, {
    ...compiled,
    ...(layout.timeline && { timeline: layout.timeline }),
    scorers: new Map(Object.entries(workflow.scores).map(([id, fn]) => [id, mainThreadScorer(fn, 10)])),
    stops: {},
    tools: {},
    toolSeconds: 10,
    // No case refills.
    spare: () => [],
    encode: (text) => Int32Array.from(text, (c) => c.codePointAt(0)!),
    decode: (ids) => String.fromCharCode(...ids),
    retokenize: (_, column) => column,
    seed: 0,
    totalUpdates: Object.fromEntries(Object.keys(graph.models).map((name) => [name, 1])),
  });
}

function randomModel(config: ModelConfig, spec: ModelSpec): EngineModel {
  const list = parameters(config, spec.head);
  return {
    spec,
    config,
    parameters: list,
    constants: ropeTable(config, config.maxPositions),
    load: (sink) => initializeWeights(list, (p, values) => sink(p, values, 0), { seed: 0, std: 0.02 }),
  };
}
