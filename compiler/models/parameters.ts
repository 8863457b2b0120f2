/** The parameters of Llama, Qwen2, Qwen3 and Mistral: names, shapes, order, and what tensor parallelism cuts them by. */
import type { Head } from "../../ir/graph.ts";
import { align, BYTES } from "../../ir/op.ts";
import type { Parameter } from "../../ir/program.ts";
import type { ModelConfig } from "./config.ts";
import { type Cut, type ModelParameter, storedElements } from "./cut.ts";
import { loraParameters } from "./lora.ts";
import { storageOf } from "./storage.ts";

export { type ModelParameter, storedElements } from "./cut.ts";

export const EMBEDDING = "model.embed_tokens.weight";
export const SCORE = "score.weight";

/**
 * Parameters in the order of the `params` segment of one device, under Hugging Face's names and shapes. Those that are trained come
 * first where not all of them are, so that gradients and moments are as long as they.
 */
export function parameters(config: ModelConfig, head: Head): readonly ModelParameter[] {
  const own = baseParameters(config, head);
  if (!config.lora) return placed(own);
  const base = own.map((p): ModelParameter => p.name === SCORE ? p : { ...p, frozen: true });
  return placed([
    ...loraParameters(base, config.lora, storageOf(config).layout),
    ...base.filter((p) => !p.frozen),
    ...base.filter((p) => p.frozen),
  ]);
}

function placed(all: readonly ModelParameter[]): readonly ModelParameter[] {
  let offset = 0;
  return all.map((p) => {
    const at = { ...p, offset };
    offset += align(BYTES[p.dtype] * p.elements);
    return at;
  });
}

/** The parameters of a checkpoint; their places are given later. */
function baseParameters(config: ModelConfig, head: Head): readonly ModelParameter[] {
  const c = config, q = c.heads * c.headDim, kv = c.kvHeads * c.headDim, all: ModelParameter[] = [];
  const { weights: dtype, gradients: gradient, layout: ofProducts } = storageOf(c);
  const add = (name: string, layer: number, p: Pick<ModelParameter, "shape" | "layout" | "init" | "cut">) => {
    const matrix = p.shape.length === 2, elements = storedElements(p);
    all.push({ ...p, name, layer, matrix, dtype, gradient, offset: 0, elements });
  };
  const linear = (name: string, layer: number, n: number, k: number, bias: boolean, cut: Cut | null) => {
    add(`${name}.weight`, layer, { shape: [n, k], layout: ofProducts, init: "normal", cut });
    // What is cut by columns adds up over ranks, and its bias is added once to the sum.
    const ofBias = cut?.dim === 0 ? cut : null;
    if (bias) add(`${name}.bias`, layer, { shape: [n], layout: "rows", init: "zeros", cut: ofBias });
  };
  const norm = (name: string, layer: number, n: number) =>
    add(`${name}.weight`, layer, { shape: [n], layout: "rows", init: "ones", cut: null });
  const rows = (by: Cut["by"]): Cut => ({ by, dim: 0 }), columns = (by: Cut["by"]): Cut => ({ by, dim: 1 });

  const product = head === "lm" && c.tied;
  add(EMBEDDING, -1, {
    shape: [c.vocab, c.hidden],
    layout: product ? ofProducts : "rows",
    init: "normal",
    cut: rows("vocab"),
  });
  for (let i = 0; i < c.layers; i++) {
    const layer = `model.layers.${i}`;
    norm(`${layer}.input_layernorm`, i, c.hidden);
    linear(`${layer}.self_attn.q_proj`, i, q, c.hidden, c.attentionBias, rows("heads"));
    linear(`${layer}.self_attn.k_proj`, i, kv, c.hidden, c.attentionBias, rows("kvHeads"));
    linear(`${layer}.self_attn.v_proj`, i, kv, c.hidden, c.attentionBias, rows("kvHeads"));
    if (c.qkNorm) {
      norm(`${layer}.self_attn.q_norm`, i, c.headDim);
      norm(`${layer}.self_attn.k_norm`, i, c.headDim);
    }
    linear(`${layer}.self_attn.o_proj`, i, c.hidden, q, c.outputBias, columns("heads"));
    norm(`${layer}.post_attention_layernorm`, i, c.hidden);
    linear(`${layer}.mlp.gate_proj`, i, c.intermediate, c.hidden, c.mlpBias, rows("intermediate"));
    linear(`${layer}.mlp.up_proj`, i, c.intermediate, c.hidden, c.mlpBias, rows("intermediate"));
    linear(`${layer}.mlp.down_proj`, i, c.hidden, c.intermediate, c.mlpBias, columns("intermediate"));
  }
  norm("model.norm", -1, c.hidden);
  if (head === "lm" && !c.tied) linear("lm_head", -1, c.vocab, c.hidden, false, rows("vocab"));
  // A new value head says 0, so that the first advantages are the rewards; a reward head must break the symmetry.
  if (head !== "lm") {
    const init = head === "value" ? "zeros" : "normal";
    add(SCORE, -1, { shape: [1, c.hidden], layout: ofProducts, init, cut: null });
  }
  return all;
}

/** Bytes of the `params` segment. */
export const parameterBytes = (all: readonly Parameter[]): number =>
  all.reduce((end, p) => Math.max(end, align(p.offset + BYTES[p.dtype] * p.elements)), 0);
