/** Workflows on virtual devices under any layout: what the tests of plan invariance compare. */
import { type BenchLayout, benchStage, promptRows, sequenceRows } from "../../bench/cases.ts";
import { parseConfig } from "../../compiler/models/config.ts";
import type { Storage } from "../../compiler/models/storage.ts";
import { type Batch, batchOf } from "../../engine/batch.ts";
import { Devices } from "../../engine/devices.ts";
import type { Sample } from "../../engine/sample.ts";
import type { Stage } from "../../engine/stage.ts";
import type { ParallelStrategy, Recompute } from "../../ir/plan.ts";
import { parsePlanFile } from "../../planner/plan_file.ts";
import {
  adamw,
  conversations,
  type lora,
  models,
  policyModel,
  prompts,
  sft,
  type Workflow,
  workflow,
} from "../../mod.ts";

/** An untied model with grouped heads, and a tied one with biases; vocabulary, layers and widths that nothing divides. */
export const FAMILIES = {
  llama: parseConfig({
    model_type: "llama",
    architectures: ["LlamaForCausalLM"],
    hidden_size: 32,
    num_hidden_layers: 5,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    intermediate_size: 72,
    vocab_size: 131,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-5,
    tie_word_embeddings: false,
  }, "llama of the tests"),
  qwen2: parseConfig({
    model_type: "qwen2",
    architectures: ["Qwen2ForCausalLM"],
    hidden_size: 48,
    num_hidden_layers: 5,
    num_attention_heads: 6,
    num_key_value_heads: 3,
    intermediate_size: 100,
    vocab_size: 140,
    max_position_embeddings: 64,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
  }, "qwen2 of the tests"),
};
export type Family = keyof typeof FAMILIES;

/** Token ids from a counter: the same everywhere. */
function ids(count: number, seed: number, vocab: number): Int32Array {
  let state = seed * 2654435761 >>> 0;
  return Int32Array.from({ length: count }, () => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0;
    return (state >>> 8) % vocab;
  });
}

/** Sequences of very different lengths. */
const LENGTHS = [3, 17, 9, 30, 5, 24, 12, 7, 28, 4, 15, 21];

export const sequencesOf = (family: Family): Sample[] =>
  sequenceRows(LENGTHS.map((n, i) => ids(n, i + 1, FAMILIES[family].vocab)));
export const promptsOf = (family: Family): Sample[] =>
  promptRows(LENGTHS.slice(0, 8).map((n, i) => ids(n, i + 50, FAMILIES[family].vocab)));

/** Three updates with log-probabilities of the same sequences before them. */
export function trainWorkflow(adapter?: ReturnType<typeof lora>): Workflow {
  // The first update of Adam is the sign of a gradient, however small: a larger eps keeps what is only rounding small.
  const optimizer = adamw({ lr: 1e-3, weightDecay: 0.01, clip: 1, ...(adapter && { eps: 1e-5 }) });
  const { actor } = models({ actor: policyModel("random", optimizer, adapter) });
  return workflow({
    name: "train",
    data: conversations("random.jsonl", { batch: LENGTHS.length }),
    flow: actor.infer().then(actor.train(sft(), { minibatches: 3 })),
  });
}

export function generateWorkflow(): Workflow {
  const { actor } = models({ actor: policyModel("random") });
  return workflow({
    name: "generate",
    data: prompts("random.jsonl", { batch: 8 }),
    flow: actor.generate({ maxNewTokens: 9, samples: 2, ignoreEos: true }),
  });
}

/** A layout, and what the model is stored in under it. */
export interface StoredLayout extends BenchLayout {
  readonly storage?: Storage | undefined;
}

/** A stage on as many virtual devices as the layout has ranks. */
export async function opened(
  workflow: Workflow,
  family: Family,
  layout: StoredLayout,
): Promise<{ readonly stage: Stage; readonly close: () => void }> {
  const { dp, tp, pp } = layout.strategy ?? { dp: 1, tp: 1, pp: 1 }, count = layout.devices ?? dp * tp * pp;
  const devices = Devices.open({ count, threads: 1, deadlineSeconds: 60 });
  const generates = workflow.graph.calls.some((c) => c.kind === "generate");
  const longestPrompt = Math.max(...LENGTHS.slice(0, 8));
  const sizes = generates
    ? { sequences: 16, group: 2, longestPrompt, longest: longestPrompt + 9, longestResponse: 9 }
    : { sequences: LENGTHS.length, group: 1, longestPrompt: 0, longest: 30, longestResponse: 29 };
  const config = { ...FAMILIES[family], ...layout.storage && { storage: layout.storage } };
  const stage = await benchStage(devices, workflow, config, sizes, layout);
  // New biases are zero, and what Adam makes of their first tiny gradients is noise: those of a checkpoint are not.
  for (const p of stage.engine.models.actor!.parameters) {
    if (p.init !== "zeros") continue;
    const count = p.shape.reduce((n, d) => n * d, 1);
    const values = Array.from(ids(count, p.elements, 1001), (x) => (x - 500) / 10_000);
    stage.engine.home("actor").write(p.name, Float32Array.from(values));
  }
  return {
    stage,
    close() {
      stage.dispose();
      devices[Symbol.dispose]();
      stage.engine.dispose();
    },
  };
}

/** One step, and the parameters that it leaves by name. */
export async function stepOf(
  workflow: Workflow,
  family: Family,
  layout: StoredLayout,
  rows: readonly Sample[],
): Promise<{ readonly batch: Batch; readonly parameters: ReadonlyMap<string, Float32Array> }> {
  const { stage, close } = await opened(workflow, family, layout);
  try {
    const batch = batchOf(rows, workflow.graph.calls.some((c) => c.kind === "generate") ? 2 : 1);
    await stage.step(0, batch);
    const { parameters } = stage.engine.models.actor!, home = stage.engine.home("actor");
    return { batch, parameters: new Map(parameters.map((p) => [p.name, home.read(p)])) };
  } finally {
    close();
  }
}

/** Options of every call of a workflow on all devices. */
export interface LayoutOptions {
  readonly strategy?: ParallelStrategy;
  readonly microBatchTokens?: number;
  readonly zero?: 0 | 1;
  readonly recompute?: Recompute;
  readonly storage?: Storage;
}

/** A plan with one layout for all calls. */
export function layoutOf(workflow: Workflow, o: LayoutOptions): StoredLayout {
  const { strategy = { dp: 1, tp: 1, pp: 1 }, microBatchTokens = 200, zero = 0, recompute = "nothing" } = o;
  const { storage } = o;
  const devices = strategy.dp * strategy.tp * strategy.pp;
  const calls = workflow.graph.calls.filter((c) => "model" in c).map((c) => [c.id, {
    devices: `0-${devices - 1}`,
    ...strategy,
    microBatchTokens,
    ...(c.kind === "train" && { zero, recompute }),
  }]);
  return {
    devices,
    strategy,
    storage,
    file: parsePlanFile({ calls: Object.fromEntries(calls) }, "the test's plan"),
  };
}
