/** Llama, Qwen2, Qwen3 and Mistral: one forward pass, parameterised by the config and by what a rank has of the model. */
import { BYTES, type Dim, dim, type Value } from "../../ir/op.ts";
import type { Builder, Heads, Part, Weight } from "../builder.ts";
import { type LocalParameter, type Shard, trainedOf } from "../layout.ts";
import { pairOf } from "./lora.ts";
import { EMBEDDING, parameterBytes, SCORE } from "./parameters.ts";
import { storageOf } from "./storage.ts";

export { parameterBytes, parameters } from "./parameters.ts";
export { ropeTable } from "./rope.ts";

/**
 * A matrix that is both embedding and head has two gradients, and the optimizer's program adds them: one chain of
 * additions through both would depend on how sequences are cut into micro-batches. The embedding's is behind the others.
 * In a pipeline, the first stage has the one and the last stage the other.
 */
export function tiedGradient(shard: Shard): LocalParameter | undefined {
  const { parameters: all, head, config, first, last } = shard;
  if (head !== "lm" || !config.tied || config.lora || !first || !last) return undefined;
  const tied = all.find((p) => p.name === EMBEDDING)!;
  return { ...tied, name: `tied.${EMBEDDING}`, offset: parameterBytes(all) };
}
/** Bytes of the `grads` segment: one gradient for each parameter that is trained, two for a tied embedding. */
export function gradientBytes(shard: Shard): number {
  const tied = tiedGradient(shard), { weights, gradients } = storageOf(shard.config);
  return parameterBytes(tied ? [tied] : trainedOf(shard)) / BYTES[weights] * BYTES[gradients];
}

/** The parameters of a rank as values of a program, and what tensor parallelism adds to a layer. */
export class Model {
  readonly values: ReadonlyMap<string, Value>;
  /** A value of its own where it is tied to the head, so that it has a gradient of its own. */
  readonly #embedding: Weight | undefined;
  readonly #parameters: ReadonlyMap<string, LocalParameter>;
  /** alpha / rank of the adapter. */
  #scale: Value | undefined;

  constructor(readonly shard: Shard, readonly b: Builder) {
    const all = shard.parameters;
    this.#parameters = new Map(all.map((p) => [p.name, p]));
    this.values = new Map(all.map((p) => [p.name, b.parameter(p)]));
    if (!shard.first) return;
    const embedding = this.matrix(EMBEDDING), { name, shape, dtype, place } = embedding.value;
    this.#embedding = tiedGradient(shard)
      ? { ...embedding, value: b.value(name, shape, { dtype, place }) }
      : embedding;
  }

  /** Where autodiff adds the gradient of each parameter. */
  gradients(): Map<Value, Value> {
    const into = new Map(
      trainedOf(this.shard).map((p) => [this.values.get(p.name)!, this.b.parameter(p, "grads")]),
    );
    const tied = tiedGradient(this.shard);
    return tied ? into.set(this.#embedding!.value, this.b.parameter(tied, "grads")) : into;
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
    const { head, config } = this.shard;
    return this.matrix(head !== "lm" ? SCORE : config.tied ? EMBEDDING : "lm_head.weight");
  }
  /** Where this rank's rows of embedding and language-model head lie in the vocabulary. */
  get part(): Part {
    return { first: this.shard.vocab.from, total: this.shard.config.vocab };
  }

  /** Rows of the residual stream that this rank has between layers: its own ones of all tokens. */
  get rows(): Dim {
    return dim(this.shard.tp > 1 ? "shard" : "tokens");
  }
  /** What enters the rank's layers: embeddings, or what the stage before hands on. */
  enter(ids: Value | undefined): Value {
    const { config } = this.shard;
    if (!this.#embedding) return this.b.input("x", [this.rows, config.hidden], storageOf(config).weights);
    return this.#scatter(this.b.embedding(ids!, this.#embedding, this.part));
  }
  /** The rows of all tokens, of which x is this rank's; `alike` as in `Collectives.allGatherRows`. */
  gather(x: Value, o: { readonly alike?: boolean } = {}): Value {
    return this.shard.tp > 1 ? this.b.allGatherRows(x, dim("tokens"), "tp", o) : x;
  }
  /** This rank's rows of the sum over ranks. */
  #scatter(x: Value): Value {
    return this.shard.tp > 1 ? this.b.reduceScatterRows(x, this.rows, "tp") : x;
  }

  /** A product whose outputs the ranks share: x has the rows of all tokens, and so has the result. */
  column(x: Value, name: string): Value {
    return this.#bias(this.#product(x, name), name);
  }
  /** A product whose inputs the ranks share: the result is this rank's rows of the sum. */
  row(x: Value, name: string): Value {
    return this.#bias(this.#scatter(this.#product(x, name)), name);
  }
  /** With an adapter, what the pair adds to it as well: a rank's part of both is a part of the sum. */
  #product(x: Value, name: string): Value {
    const { b } = this, y = b.matmul(x, this.matrix(`${name}.weight`)), pair = pairOf(name);
    if (!this.#parameters.has(pair.a)) return y;
    const low = b.pointwise("mul", b.matmul(x, this.matrix(pair.a)), this.#scale ??= this.#newScale());
    return b.pointwise("add", y, b.matmul(low, this.matrix(pair.b)));
  }
  #newScale(): Value {
    const { rank, alpha } = this.shard.config.lora!;
    return this.b.fill(alpha / rank);
  }
  #bias(y: Value, name: string): Value {
    const bias = this.values.get(`${name}.bias`);
    return bias ? this.b.addBias(y, bias) : y;
  }

  norm(x: Value, name: string): Value {
    return this.b.rmsnorm(x, this.vector(`${name}.weight`), this.shard.config.normEps);
  }
}

export interface Sequences {
  /** Of the first stage. */
  readonly ids: Value | undefined;
  readonly positions: Value;
  /** [positions, headDim], see {@link ropeTable}. */
  readonly ropeTable: Value;
}
/** How a layer of the stage attends: over packed sequences or over the pages of a cache. q and k are rotated. */
export type Attend = (layer: number, q: Value, k: Value, v: Value, heads: Heads) => Value;

/**
 * The residual stream after the stage's last layer, before the final norm: rows are picked first, so that norm and head cost
 * nothing for rows that nobody asked for. `layerInputs` are what full recomputation keeps.
 */
export function forward(
  m: Model,
  s: Sequences,
  attend: Attend,
): { readonly x: Value; readonly layerInputs: readonly Value[] } {
  const { b, shard: { config: c, layers, heads, kvHeads } } = m, layerInputs: Value[] = [];
  let x = m.enter(s.ids);
  for (let i = layers.from; i < layers.to; i++) {
    const name = `model.layers.${i}`, attention = `${name}.self_attn`;
    b.scope = `layers.${i}`;
    layerInputs.push(x);
    const rotated = (h: Value, norm: string) =>
      b.rope(c.qkNorm ? m.norm(h, `${attention}.${norm}`) : h, s.positions, s.ropeTable);
    const n1 = m.gather(m.norm(x, `${name}.input_layernorm`));
    const q = rotated(m.column(n1, `${attention}.q_proj`), "q_norm");
    const k = rotated(m.column(n1, `${attention}.k_proj`), "k_norm");
    const v = m.column(n1, `${attention}.v_proj`);
    const shape = { heads, kvHeads, headDim: c.headDim, window: c.windows[i]! };
    x = b.pointwise("add", x, m.row(attend(i - layers.from, q, k, v, shape), `${attention}.o_proj`));
    const n2 = m.gather(m.norm(x, `${name}.post_attention_layernorm`));
    const activation = b.swiglu(m.column(n2, `${name}.mlp.gate_proj`), m.column(n2, `${name}.mlp.up_proj`));
    x = b.pointwise("add", x, m.row(activation, `${name}.mlp.down_proj`));
  }
  b.scope = "";
  return { x, layerInputs };
}
