/** The sizes and cases that `deno task bench` shares with its peers: random models, no files. */
import { initializeWeights } from "../engine/weights.ts";
import type { TokenColumn } from "../engine/batch.ts";
import { Replica } from "../engine/replica.ts";
import { type ModelConfig, parseConfig } from "../compiler/models/config.ts";
import { parameters, ropeTable } from "../compiler/models/transformer.ts";
import type { AdamW } from "../ir/graph.ts";

/** Hidden size, layers and vocabulary of the peer's sizes. */
export const SIZES = {
  T: { hidden_size: 64, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 2, intermediate_size: 176, vocab_size: 512 },
  S: { hidden_size: 256, num_hidden_layers: 4, num_attention_heads: 8, num_key_value_heads: 4, intermediate_size: 688, vocab_size: 4096 },
  M: { hidden_size: 512, num_hidden_layers: 8, num_attention_heads: 8, num_key_value_heads: 4, intermediate_size: 1376, vocab_size: 32000 },
} as const;
export type Size = keyof typeof SIZES;

export function benchConfig(size: Size): ModelConfig {
  return parseConfig({
    model_type: "llama",
    architectures: ["LlamaForCausalLM"],
    ...SIZES[size],
    max_position_embeddings: 2048,
    rms_norm_eps: 1e-6,
    rope_theta: 10000,
    tie_word_embeddings: false,
    hidden_act: "silu",
  }, `bench size ${size}`);
}

/** A model with seeded random weights. */
export async function benchReplica(config: ModelConfig, trained: boolean): Promise<Replica> {
  const list = parameters(config, "lm"), replica = new Replica("actor", "lm", list, ropeTable(config, 2048), trained);
  await initializeWeights(list, (p, stored) => replica.write(p, stored), { seed: 0, std: 0.02 });
  return replica;
}

/** `rows` sequences of `length` pseudo-random tokens, every token but the first an action. */
export function benchTokens(config: ModelConfig, rows: number, length: number): TokenColumn {
  let state = 12345;
  const next = () => state = Math.imul(state, 1664525) + 1013904223 >>> 0;
  return {
    ids: Array.from({ length: rows }, () => Int32Array.from({ length }, () => 3 + next() % (config.vocab - 3))),
    actions: Array.from({ length: rows }, () => Int32Array.from({ length: length - 1 }, (_, i) => i + 1)),
    temperature: 1,
    versions: Array.from({ length: rows }, () => -1),
  };
}

export const BENCH_ADAMW: AdamW = {
  name: "adamw",
  lr: 1e-5,
  betas: [0.9, 0.999],
  eps: 1e-8,
  weightDecay: 0.01,
  decay: "all",
  clip: 0,
  schedule: "constant",
  warmup: 0,
  minRatio: 1,
};
