/** Shapes of real models for GPUs, with weights that cost no time to make: random numbers copied over and over on the device. */
import { type ModelConfig, parseConfig } from "../compiler/models/config.ts";
import { parameters } from "../compiler/models/transformer.ts";
import { storedIn } from "../compiler/models/storage.ts";
import { storedAs } from "../engine/half.ts";
import type { Stage } from "../engine/stage.ts";
import type { Device, DeviceSegment } from "../ffi/device.ts";

/** config.json of each, as far as it decides shapes. */
const SHAPES = {
  "0.6B": qwen3(1024, 28, 16, 3072),
  "1.7B": qwen3(2048, 28, 16, 6144),
  "8B": {
    model_type: "llama",
    architectures: ["LlamaForCausalLM"],
    hidden_size: 4096,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    head_dim: 128,
    intermediate_size: 14336,
    vocab_size: 128256,
    rope_theta: 500000,
    tie_word_embeddings: false,
  },
  /** For the emulation. */
  tiny: { ...qwen3(32, 2, 4, 48), num_key_value_heads: 2, head_dim: 16, vocab_size: 96 },
};
export type Shape = keyof typeof SHAPES;

function qwen3(hidden: number, layers: number, heads: number, inner: number) {
  return {
    model_type: "qwen3",
    architectures: ["Qwen3ForCausalLM"],
    hidden_size: hidden,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: 8,
    head_dim: 128,
    intermediate_size: inner,
    vocab_size: 151936,
    rope_theta: 1000000,
    tie_word_embeddings: true,
  };
}

/** What config.json of a shape says, for peers. */
export const shapeJson = (shape: Shape, positions: number) => ({
  ...SHAPES[shape],
  max_position_embeddings: positions,
  rms_norm_eps: 1e-6,
  hidden_act: "silu",
  attention_bias: false,
});

/** A shape with numbers and gradients in bf16. */
export const shapeConfig = (shape: Shape, positions: number): ModelConfig => ({
  ...parseConfig(shapeJson(shape, positions), `shape ${shape}`),
  storage: storedIn("bf16", "bf16", "rows"),
});

/** Parameters, a tied head counted once. */
export const parameterCount = (config: ModelConfig): number =>
  parameters(config, "lm").reduce((n, p) => n + p.shape.reduce((a, b) => a * b, 1), 0);

const TILE = 1 << 20;

/** Fills the parameters of a stage's models. */
export async function randomWeights(stage: Stage, device: Device): Promise<void> {
  let state = 1;
  const tile = Float32Array.from({ length: TILE }, () => {
    state = Math.imul(state, 1664525) + 1013904223 >>> 0;
    return 0.04 * (state / 2 ** 32 - 0.5);
  });
  const half = storedAs(tile, "bf16"), bytes = half.byteLength;
  for (const replica of stage.engine.replicas.values()) {
    for (const { segments: { params } } of replica.holders) if (params) await repeat(params);
  }
  async function repeat(segment: DeviceSegment): Promise<void> {
    segment.write(0, half.subarray(0, Math.min(half.length, segment.bytes >> 1)));
    for (let at = bytes; at < segment.bytes; at *= 2) {
      const n = Math.min(at, segment.bytes - at) & ~3;
      const move = {
        from: segment,
        to: segment,
        fromOffset: 0,
        toOffset: at,
        bytes: n,
        count: 1,
        fromStride: n,
        toStride: n,
      };
      await device.copy([move]).done;
    }
  }
}
