/** Small models and expressions that the compiler's tests share. */
import type { Expr, ExprOp } from "../../ir/expr.ts";
import type { Granularity, Schema } from "../../ir/field.ts";
import type { AdamW, Sampling } from "../../ir/graph.ts";
import type { Maxima } from "../../ir/op.ts";
import { type ModelConfig, parseConfig } from "../../compiler/models/config.ts";

export const TINY = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 32,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  intermediate_size: 52,
  vocab_size: 100,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  hidden_act: "silu",
};
/** A tiny Llama; `change` replaces fields of its config.json. */
export const tiny = (change: Record<string, unknown> = {}): ModelConfig =>
  parseConfig({ ...TINY, ...change }, "config.json");

export const MAXIMA: Maxima = {
  one: 1,
  tokens: 64,
  actions: 64,
  sequences: 8,
  groups: 4,
  pairs: 4,
  shard: 0,
};
export const ADAMW: AdamW = {
  name: "adamw",
  lr: 1e-3,
  betas: [0.9, 0.95],
  eps: 1e-8,
  weightDecay: 0.1,
  decay: "all",
  clip: 0,
  schedule: "constant",
  warmup: 0,
  minRatio: 0,
};
export const SAMPLING: Sampling = {
  maxNewTokens: 16,
  temperature: 1,
  topK: 0,
  topP: 1,
  samples: 1,
  stop: [],
  ignoreEos: false,
  maxLag: 0,
};
export const CACHE = { slots: 8, pages: 32, maxPages: 4, maxNew: 16, stops: 1 };

/** Writes expressions by hand: each call records one operation and gives its index. */
export class Trace {
  readonly ops: (ExprOp & { readonly per: Granularity })[] = [];
  readonly fields: Record<string, Schema[string]> = {};

  push(op: ExprOp, per: Granularity): number {
    return this.ops.push({ ...op, per }) - 1;
  }
  now(field: string, per: Granularity = "token"): number {
    return this.push({ op: "input", field, from: "model" }, per);
  }
  batch(field: string, per: Granularity = "token"): number {
    this.fields[field] = { per, dtype: "f32" };
    return this.push({ op: "input", field, from: "batch" }, per);
  }
  state(field: string): number {
    return this.push({ op: "input", field, from: "state" }, "batch");
  }
  constant(value: number, per: Granularity = "batch"): number {
    return this.push({ op: "const", value }, per);
  }
  /** Any other operation; the granularity is that of its arguments unless given. */
  op(
    op: string,
    args: readonly number[],
    per?: Granularity,
    attrs?: Readonly<Record<string, number>>,
  ): number {
    const own = args.map((i) => this.ops[i]!.per).find((p) => p !== "batch") ?? "batch";
    return this.push({ op, args, ...(attrs && { attrs }) } as unknown as ExprOp, per ?? own);
  }
  mean(x: number): number {
    return this.op("mean", [x], "batch");
  }
  expr(outputs: Readonly<Record<string, number>>): Expr {
    return { ops: this.ops, outputs };
  }
}

/** Mean negative log-likelihood of the actions. */
export function nll(): Expr {
  const t = new Trace();
  return t.expr({ loss: t.mean(t.op("neg", [t.now("logprobs")])) });
}
