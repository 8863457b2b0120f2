/** Compiles every call of a graph under its assignment: (graph, plan, models, sizes) → programs. */
import type { CallGraph, GenerateCall, InferCall, TrainCall } from "../ir/graph.ts";
import { type Maxima, PAGE } from "../ir/op.ts";
import type { Assignment, ExecutionPlan } from "../ir/plan.ts";
import type { Program } from "../ir/program.ts";
import {
  compileCompute,
  compileCopyPages,
  compileDecode,
  compileInfer,
  compilePrefill,
  compileTrain,
  compileUpdate,
} from "./compile.ts";
import { keepsTogether } from "./expression.ts";
import type { ModelConfig } from "./models/config.ts";

/** What the data of a run bounds: lengths in tokens, known before anything is compiled. */
export interface DataSizes {
  /** Sequences in a step: prompts × samples, conversations, or 2 × pairs. */
  readonly sequences: number;
  /** Sequences that share a prompt (or a pair) and are neighbours. */
  readonly group: number;
  readonly longestPrompt: number;
  /** Longest whole sequence: prompt and response, or a data set's own. */
  readonly longest: number;
  /** Most actions in one sequence. */
  readonly longestResponse: number;
}

/** Sizes of the KV cache of a generate call. */
export interface CacheSizes {
  readonly slots: number;
  readonly pages: number;
  readonly maxPages: number;
  readonly maxNew: number;
  readonly stops: number;
  /** Tokens of the longest prompt that all of this was sized for. */
  readonly longestPrompt: number;
}

export interface GeneratePrograms {
  readonly prefill: Program;
  readonly decode: Program;
  readonly copyPages: Program;
  readonly cache: CacheSizes;
}

export interface Programs {
  readonly generate: Readonly<Record<string, GeneratePrograms>>;
  readonly infer: Readonly<Record<string, Program>>;
  readonly train: Readonly<Record<string, { readonly train: Program; readonly together: number }>>;
  /** Per trained model. */
  readonly update: Readonly<Record<string, Program>>;
  readonly compute: Readonly<Record<string, Program>>;
}

/** Decode rows in flight: enough to keep the products wide, few enough that pages stay small. */
const MOST_SLOTS = 128;

/**
 * Throws when a call cannot be compiled under its assignment.
 *
 * @param pages of the KV cache of each generate call; as many as all its slots can use where none is given
 */
export function compilePlan(
  graph: CallGraph,
  plan: ExecutionPlan,
  configs: Readonly<Record<string, ModelConfig>>,
  sizes: DataSizes,
  stops: Readonly<Record<string, number>>,
  pages: Readonly<Record<string, number>> = {},
): Programs {
  const generate: Record<string, GeneratePrograms> = {}, infer: Record<string, Program> = {};
  const trains: Record<string, { train: Program; together: number }> = {},
    update: Record<string, Program> = {};
  const compute: Record<string, Program> = {};
  for (const call of graph.calls) {
    if (call.kind === "score") continue;
    if (call.kind === "compute") {
      compute[call.id] = compileCompute(call.expr, { maxima: stepMaxima(sizes), fields: graph.fields });
      continue;
    }
    const config = configs[call.model]!, assignment = plan.assignments[call.id]!;
    if (call.kind === "generate") {
      generate[call.id] = generatePrograms(
        call,
        config,
        assignment,
        sizes,
        stops[call.id] ?? 0,
        pages[call.id],
      );
    } else if (call.kind === "infer") infer[call.id] = inferProgram(call, graph, config, assignment, sizes);
    else {
      trains[call.id] = trainProgram(call, graph, config, assignment, sizes);
      update[call.model] ??= compileUpdate(
        config,
        graph.models[call.model]!.head,
        graph.models[call.model]!.optimizer!,
        {},
      );
    }
  }
  return { generate, infer, train: trains, update, compute };
}

const maxima = (m: Partial<Maxima>): Maxima => ({
  one: 1,
  tokens: 0,
  actions: 0,
  sequences: 0,
  groups: 0,
  pairs: 0,
  ...m,
});

const stepMaxima = (s: DataSizes): Maxima =>
  maxima({
    actions: s.sequences * s.longestResponse,
    sequences: s.sequences,
    groups: Math.ceil(s.sequences / s.group),
    pairs: Math.floor(s.sequences / 2),
  });

/** Largest dims of a micro-batch of at most `tokens` tokens. */
function microMaxima(tokens: number, s: DataSizes): Maxima {
  return maxima({
    tokens,
    actions: Math.min(tokens, s.sequences * s.longestResponse),
    sequences: Math.min(s.sequences, tokens),
    groups: Math.min(s.sequences, tokens),
    pairs: Math.floor(Math.min(s.sequences, tokens) / 2),
  });
}

function generatePrograms(
  call: GenerateCall,
  config: ModelConfig,
  assignment: Assignment,
  s: DataSizes,
  stops: number,
  pages?: number,
): GeneratePrograms {
  const slots = Math.min(MOST_SLOTS, s.sequences), maxNew = call.sampling.maxNewTokens;
  const maxPages = Math.floor(Math.min(s.longestPrompt + maxNew, config.maxPositions) / PAGE) + 1;
  const cache = {
    slots,
    pages: pages ?? slots * maxPages,
    maxPages,
    maxNew,
    stops: Math.max(1, stops),
    longestPrompt: s.longestPrompt,
  };
  const prefill = maxima({
    tokens: Math.max(assignment.microBatchTokens, s.longest),
    actions: slots,
    sequences: slots,
  });
  const decode = maxima({ tokens: slots, sequences: slots });
  const o = { sampling: call.sampling, ...cache };
  return {
    cache,
    prefill: compilePrefill(config, { ...o, maxima: prefill }),
    decode: compileDecode(config, { ...o, maxima: decode }),
    copyPages: compileCopyPages(config, { ...o, maxima: decode }),
  };
}

function inferProgram(
  call: InferCall,
  graph: CallGraph,
  config: ModelConfig,
  a: Assignment,
  s: DataSizes,
): Program {
  return compileInfer(config, graph.models[call.model]!.head, {
    maxima: microMaxima(a.microBatchTokens, s),
    outputs: Object.keys(call.writes) as never,
  });
}

function trainProgram(call: TrainCall, graph: CallGraph, config: ModelConfig, a: Assignment, s: DataSizes) {
  const scope = keepsTogether(call.loss),
    together = scope === "sequence" ? 1 : scope === "pair" ? 2 : s.group;
  const program = compileTrain(config, graph.models[call.model]!.head, {
    maxima: microMaxima(a.microBatchTokens, s),
    loss: call.loss,
    fields: graph.fields,
    recompute: a.recompute,
  });
  return { train: program, together };
}
