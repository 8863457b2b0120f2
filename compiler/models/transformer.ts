/** Llama, Qwen2, Qwen3 and Mistral: the parameters and one forward pass, parameterised by the config. */
import type { Head } from "../../ir/graph.ts";
import { align, panelElements, type Value } from "../../ir/op.ts";
import type { Parameter } from "../../ir/program.ts";
import type { Builder, Heads, Weight } from "../builder.ts";
import type { ModelConfig } from "./config.ts";

export { ropeTable } from "./rope.ts";

const EMBEDDING = "model.embed_tokens.weight";

/** Parameters in the order of the `params` segment, under Hugging Face's names and shapes. */
export function parameters(config: ModelConfig, head: Head): readonly Parameter[] {
  const c = config, q = c.heads * c.headDim, kv = c.kvHeads * c.headDim, all: Parameter[] = [];
  let offset = 0;
  const add = (name: string, layer: number, p: Pick<Parameter, "shape" | "layout" | "init">) => {
    const [n, k = 1] = p.shape as [number, number?];
    const elements = p.layout === "panels" ? panelElements(n, k) : n * k;
    all.push({ ...p, name, layer, matrix: p.shape.length === 2, offset, elements });
    offset += align(4 * elements);
  };
  const linear = (name: string, layer: number, n: number, k: number, bias: boolean) => {
    add(`${name}.weight`, layer, { shape: [n, k], layout: "panels", init: "normal" });
    if (bias) add(`${name}.bias`, layer, { shape: [n], layout: "rows", init: "zeros" });
  };
  const norm = (name: string, layer: number, n: number) =>
    add(`${name}.weight`, layer, { shape: [n], layout: "rows", init: "ones" });

  const product = head === "lm" && c.tied;
  add(EMBEDDING, -1, {
    shape: [c.vocab, c.hidden],
    layout: product ? "panels" : "rows",
    init: "normal",
  });
  for (let i = 0; i < c.layers; i++) {
    const layer = `model.layers.${i}`;
    norm(`${layer}.input_layernorm`, i, c.hidden);
    linear(`${layer}.self_attn.q_proj`, i, q, c.hidden, c.attentionBias);
    linear(`${layer}.self_attn.k_proj`, i, kv, c.hidden, c.attentionBias);
    linear(`${layer}.self_attn.v_proj`, i, kv, c.hidden, c.attentionBias);
    if (c.qkNorm) {
      norm(`${layer}.self_attn.q_norm`, i, c.headDim);
      norm(`${layer}.self_attn.k_norm`, i, c.headDim);
    }
    linear(`${layer}.self_attn.o_proj`, i, c.hidden, q, c.outputBias);
    norm(`${layer}.post_attention_layernorm`, i, c.hidden);
    linear(`${layer}.mlp.gate_proj`, i, c.intermediate, c.hidden, c.mlpBias);
    linear(`${layer}.mlp.up_proj`, i, c.intermediate, c.hidden, c.mlpBias);
    linear(`${layer}.mlp.down_proj`, i, c.hidden, c.intermediate, c.mlpBias);
  }
  norm("model.norm", -1, c.hidden);
  if (head === "lm" && !c.tied) linear("lm_head", -1, c.vocab, c.hidden, false);
  // A new value head says 0, so that the first advantages are the rewards; a reward head must break the symmetry.
  if (head !== "lm") {
    const init = head === "value" ? "zeros" : "normal";
    add("score.weight", -1, { shape: [1, c.hidden], layout: "panels", init });
  }
  return all;
}

/** Bytes of the `params` segment; `moments` is the first moments, then as many bytes of second ones. */
export const parameterBytes = (all: readonly Parameter[]): number =>
  all.reduce((end, p) => Math.max(end, align(p.offset + 4 * p.elements)), 0);

/**
 * A matrix that is both embedding and head has two gradients, and the optimizer's program adds them: one chain of
 * additions through both would depend on how sequences are cut into micro-batches. The embedding's is behind the others.
 */
export function tiedGradient(all: readonly Parameter[]): Parameter | undefined {
  const tied = all.find((p) => p.name === EMBEDDING && p.layout === "panels");
  return tied && { ...tied, name: `tied.${EMBEDDING}`, offset: parameterBytes(all) };
}
/** Bytes of the `grads` segment: one gradient for each parameter, two for a tied embedding. */
export function gradientBytes(all: readonly Parameter[]): number {
  const tied = tiedGradient(all);
  return parameterBytes(tied ? [tied] : all);
}

/** The parameters of a model as values of a program. */
export class Model {
  readonly values: ReadonlyMap<string, Value>;
  /** A value of its own where it is tied to the head, so that it has a gradient of its own. */
  readonly embedding: Weight;
  readonly #parameters: ReadonlyMap<string, Parameter>;

  constructor(readonly config: ModelConfig, readonly head: Head, readonly b: Builder) {
    const all = parameters(config, head);
    this.#parameters = new Map(all.map((p) => [p.name, p]));
    this.values = new Map(all.map((p) => [p.name, b.parameter(p)]));
    const embedding = this.matrix(EMBEDDING), { name, shape, place } = embedding.value;
    this.embedding = tiedGradient(all) ? { ...embedding, value: b.value(name, shape, { place }) } : embedding;
  }

  /** Where autodiff adds the gradient of each parameter. */
  gradients(): Map<Value, Value> {
    const into = new Map(
      [...this.values].map(([name, v]) => [v, this.b.parameter(this.#parameters.get(name)!, "grads")]),
    );
    const tied = tiedGradient([...this.#parameters.values()]);
    return tied ? into.set(this.embedding.value, this.b.parameter(tied, "grads")) : into;
  }

  vector(name: string): Value {
    return this.values.get(name)!;
  }

  matrix(name: string): Weight {
    const p = this.#parameters.get(name)!, [outputs, inputs] = p.shape as [number, number];
    return { value: this.values.get(name)!, outputs, inputs, panels: p.layout === "panels" };
  }

  /** The matrix from hidden states to logits, or to the one output of a value or reward head. */
  get headMatrix(): Weight {
    const name = this.head !== "lm"
      ? "score.weight"
      : this.config.tied
      ? "model.embed_tokens.weight"
      : "lm_head.weight";
    return this.matrix(name);
  }

  linear(x: Value, name: string): Value {
    const y = this.b.matmul(x, this.matrix(`${name}.weight`)), bias = this.values.get(`${name}.bias`);
    return bias ? this.b.addBias(y, bias) : y;
  }

  norm(x: Value, name: string): Value {
    return this.b.rmsnorm(x, this.vector(`${name}.weight`), this.config.normEps);
  }
}

export interface Sequences {
  readonly ids: Value;
  readonly positions: Value;
  /** [positions, headDim], see {@link ropeTable}. */
  readonly ropeTable: Value;
}
/** How a layer attends: over packed sequences or over the pages of a cache. q and k are rotated. */
export type Attend = (layer: number, q: Value, k: Value, v: Value, heads: Heads) => Value;

/**
 * The residual stream after the last layer, [tokens, hidden], before the final norm: rows are picked first, so that norm
 * and head cost nothing for rows that nobody asked for. `layerInputs` are what full recomputation keeps.
 */
export function forward(
  m: Model,
  s: Sequences,
  attend: Attend,
): { readonly x: Value; readonly layerInputs: readonly Value[] } {
  const { b, config: c } = m, layerInputs: Value[] = [];
  let x = b.embedding(s.ids, m.embedding);
  for (let i = 0; i < c.layers; i++) {
    const name = `model.layers.${i}`, attention = `${name}.self_attn`;
    b.scope = `layers.${i}`;
    layerInputs.push(x);
    const rotated = (h: Value, norm: string) =>
      b.rope(c.qkNorm ? m.norm(h, `${attention}.${norm}`) : h, s.positions, s.ropeTable);
    const n1 = m.norm(x, `${name}.input_layernorm`);
    const q = rotated(m.linear(n1, `${attention}.q_proj`), "q_norm");
    const k = rotated(m.linear(n1, `${attention}.k_proj`), "k_norm");
    const v = m.linear(n1, `${attention}.v_proj`);
    const heads = { heads: c.heads, kvHeads: c.kvHeads, headDim: c.headDim, window: c.windows[i]! };
    x = b.pointwise("add", x, m.linear(attend(i, q, k, v, heads), `${attention}.o_proj`));
    const n2 = m.norm(x, `${name}.post_attention_layernorm`);
    const activation = b.swiglu(m.linear(n2, `${name}.mlp.gate_proj`), m.linear(n2, `${name}.mlp.up_proj`));
    x = b.pointwise("add", x, m.linear(activation, `${name}.mlp.down_proj`));
  }
  b.scope = "";
  return { x, layerInputs };
}

/** Hidden states of the rows `rows`, after the final norm. */
export const hiddenRows = (m: Model, x: Value, rows: Value): Value =>
  m.norm(m.b.gatherRows(x, rows), "model.norm");
