/** A Hugging Face config.json → what the compiler must know of a model, and back. */
import { z } from "npm:zod@4.6.7";
import type { Lora } from "../../ir/graph.ts";
import type { Storage } from "./storage.ts";

const FAMILIES = ["llama", "qwen2", "qwen3", "mistral"] as const;
export type Family = typeof FAMILIES[number];

export type RopeScaling =
  | { readonly kind: "linear"; readonly factor: number }
  | {
    readonly kind: "llama3";
    readonly factor: number;
    readonly lowFrequencyFactor: number;
    readonly highFrequencyFactor: number;
    readonly originalMaxPositions: number;
  };

export interface ModelConfig {
  readonly family: Family;
  /** Width of the residual stream. */
  readonly hidden: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly intermediate: number;
  readonly vocab: number;
  readonly maxPositions: number;
  readonly normEps: number;
  readonly ropeTheta: number;
  readonly ropeScaling: RopeScaling | null;
  /** The language model head is the embedding. */
  readonly tied: boolean;
  /** Biases of the q, k and v projections. */
  readonly attentionBias: boolean;
  /** Bias of the o projection. */
  readonly outputBias: boolean;
  readonly mlpBias: boolean;
  /** Per-head norms of queries and keys. */
  readonly qkNorm: boolean;
  /** Keys that a query sees in each layer, itself included; 0 is all. */
  readonly windows: readonly number[];
  /** Standard deviation of new weights. */
  readonly initializerRange: number;
  /** Ends a response where the model's folder has no tokenizer. */
  readonly eosTokens: readonly number[];
  /** What is trained beside frozen weights; not from config.json but from the script. */
  readonly lora?: Lora;
  /** What its numbers are stored in; not from config.json but from the run. f32 in panels where it is absent. */
  readonly storage?: Storage;
}

const CLASSES: Readonly<Record<Family, string>> = {
  llama: "Llama",
  qwen2: "Qwen2",
  qwen3: "Qwen3",
  mistral: "Mistral",
};
const TASKS = ["ForCausalLM", "ForSequenceClassification"];
/** What transformers assumes where a file is silent. */
const KV_HEADS: Readonly<Record<Family, number | null>> = { llama: null, qwen2: 32, qwen3: 32, mistral: 8 };
const MAX_POSITIONS: Readonly<Record<Family, number>> = {
  llama: 2048,
  qwen2: 32768,
  qwen3: 32768,
  mistral: 131072,
};

const count = z.int().positive();
const real = z.number().positive();
const zero = z.literal(0, { error: "is not 0, and Baton has no dropout" });
const tokenId = z.int().nonnegative();

const RopeSchema = z.looseObject({
  rope_type: z.string().optional(),
  type: z.string().optional(),
  rope_theta: real.optional(),
  factor: real.optional(),
  low_freq_factor: real.optional(),
  high_freq_factor: real.optional(),
  original_max_position_embeddings: count.optional(),
});

const FileSchema = z.looseObject({
  model_type: z.enum(FAMILIES),
  architectures: z.array(z.string()).nullish(),
  hidden_size: count,
  num_hidden_layers: count,
  num_attention_heads: count,
  num_key_value_heads: count.nullish(),
  head_dim: count.nullish(),
  intermediate_size: count,
  vocab_size: count,
  max_position_embeddings: count.optional(),
  rms_norm_eps: real.default(1e-6),
  rope_theta: real.optional(),
  rope_scaling: RopeSchema.nullish(),
  rope_parameters: RopeSchema.nullish(),
  partial_rotary_factor: z.literal(1, { error: "is not 1, and Baton rotates whole heads" }).optional(),
  tie_word_embeddings: z.boolean().default(false),
  attention_bias: z.boolean().default(false),
  mlp_bias: z.boolean().default(false),
  hidden_act: z.literal("silu", {
    error: (issue) => `is ${JSON.stringify(issue.input)}, and Baton has "silu"`,
  }).default("silu"),
  attention_dropout: zero.optional(),
  hidden_dropout: zero.optional(),
  resid_pdrop: zero.optional(),
  embd_pdrop: zero.optional(),
  quantization_config: z.null({ error: "is set, and Baton trains unquantised weights" }).optional(),
  // Silence is 4096 in transformers; null is no window.
  sliding_window: count.nullable().default(4096),
  use_sliding_window: z.boolean().default(false),
  max_window_layers: z.int().nonnegative().default(28),
  layer_types: z.array(z.enum(["full_attention", "sliding_attention"])).nullish(),
  initializer_range: z.number().nonnegative().default(0.02),
  bos_token_id: tokenId.nullish(),
  eos_token_id: z.union([tokenId, z.array(tokenId)]).nullish(),
  pad_token_id: z.int().nullish(),
});
type File = z.infer<typeof FileSchema>;

/**
 * Reads the config.json of a model; both the flat fields of transformers v4 and `rope_parameters` of v5 are understood.
 *
 * @throws Error naming the file and every field that is wrong or that Baton does not support
 */
export function parseConfig(json: unknown, file: string): ModelConfig {
  const parsed = FileSchema.safeParse(json);
  const problems = parsed.success
    ? unsupported(parsed.data)
    : parsed.error.issues.map((i) => `${i.path.join(".") || "the file"} ${sentence(i.message)}`);
  if (!parsed.success || problems.length) {
    throw new Error(`Cannot read ${file}: ${problems.join("; ")}, correct it or choose another model`);
  }
  const f = parsed.data, family = f.model_type, headDim = headDimOf(f);
  const llama = family === "llama", qwen3 = family === "qwen3";
  return {
    family,
    hidden: f.hidden_size,
    layers: f.num_hidden_layers,
    heads: f.num_attention_heads,
    kvHeads: kvHeadsOf(f),
    headDim,
    intermediate: f.intermediate_size,
    vocab: f.vocab_size,
    maxPositions: f.max_position_embeddings ?? MAX_POSITIONS[family],
    normEps: f.rms_norm_eps,
    ropeTheta: f.rope_parameters?.rope_theta ?? f.rope_theta ?? 10000,
    ropeScaling: ropeScalingOf(f),
    tied: f.tie_word_embeddings,
    attentionBias: family === "qwen2" || ((llama || qwen3) && f.attention_bias),
    outputBias: (llama || qwen3) && f.attention_bias,
    mlpBias: llama && f.mlp_bias,
    qkNorm: qwen3,
    windows: windowsOf(f),
    initializerRange: f.initializer_range,
    eosTokens: [f.eos_token_id ?? []].flat(),
  };
}

/** zod's own messages start with a capital and say "Invalid input: "; ours continue a sentence. */
const sentence = (message: string) =>
  message.startsWith("is ") ? message : `is wrong: ${message.replace(/^Invalid (input|option): /, "")}`;

const headDimOf = (f: File) =>
  f.head_dim ?? (f.model_type === "qwen3" ? 128 : f.hidden_size / f.num_attention_heads);
const kvHeadsOf = (f: File) => f.num_key_value_heads ?? KV_HEADS[f.model_type] ?? f.num_attention_heads;
const ropeOf = (f: File) => f.rope_parameters ?? f.rope_scaling ?? null;
const ropeTypeOf = (f: File) => ropeOf(f)?.rope_type ?? ropeOf(f)?.type ?? "default";

/** What a well-formed file asks for and this compiler cannot do, or that contradicts itself. */
function unsupported(f: File): string[] {
  const problems: string[] = [], rope = ropeOf(f), type = ropeTypeOf(f), headDim = headDimOf(f);
  const known = TASKS.map((task) => CLASSES[f.model_type] + task);
  for (const name of f.architectures ?? []) {
    if (!known.includes(name)) problems.push(`architectures is ${name}, and Baton has ${known.join(", ")}`);
  }
  if (!["default", "linear", "llama3"].includes(type)) {
    problems.push(`rope type is "${type}", and Baton has default, linear and llama3`);
  }
  const wanted = type === "linear"
    ? ["factor"]
    : type === "llama3"
    ? ["factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"]
    : [];
  for (const field of wanted) {
    if (rope?.[field] === undefined) problems.push(`rope type "${type}" is without ${field}`);
  }
  if (!Number.isInteger(headDim) || headDim % 2) {
    problems.push(`head_dim is ${headDim}, not a positive even number`);
  }
  if (f.num_attention_heads % kvHeadsOf(f)) {
    problems.push(
      `num_key_value_heads is ${kvHeadsOf(f)}, which does not divide ${f.num_attention_heads} heads`,
    );
  }
  if (f.layer_types && f.layer_types.length !== f.num_hidden_layers) {
    problems.push(
      `layer_types is of length ${f.layer_types.length}, not num_hidden_layers ${f.num_hidden_layers}`,
    );
  }
  if (f.layer_types?.includes("sliding_attention") && !f.sliding_window) {
    problems.push(`sliding_window is null, and layer_types asks for sliding_attention`);
  }
  return problems;
}

function ropeScalingOf(f: File): RopeScaling | null {
  const rope = ropeOf(f), type = ropeTypeOf(f);
  if (type === "linear") return { kind: "linear", factor: rope!.factor! };
  if (type !== "llama3") return null;
  return {
    kind: "llama3",
    factor: rope!.factor!,
    lowFrequencyFactor: rope!.low_freq_factor!,
    highFrequencyFactor: rope!.high_freq_factor!,
    originalMaxPositions: rope!.original_max_position_embeddings!,
  };
}

/** Mistral slides in every layer; Qwen only where it is switched on, in the layers from `max_window_layers`. */
function windowsOf(f: File): number[] {
  const qwen = f.model_type === "qwen2" || f.model_type === "qwen3";
  const on = f.model_type === "mistral" || (qwen && f.use_sliding_window);
  return Array.from({ length: f.num_hidden_layers }, (_, i) => {
    const slides = f.layer_types
      ? f.layer_types[i] === "sliding_attention"
      : !qwen || i >= f.max_window_layers;
    return on && slides ? f.sliding_window ?? 0 : 0;
  });
}
