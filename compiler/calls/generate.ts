/** Generation: prefill and decode programs over a paged KV cache whose state stays on the device. */
import type { Sampling } from "../../ir/graph.ts";
import { type Attr, dim, type Maxima, PAGE, type Value } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { Builder } from "../builder.ts";
import { finish } from "../finish.ts";
import type { ModelConfig } from "../models/config.ts";
import { forward, hiddenRows, Model, type Sequences } from "../models/transformer.ts";
import { reservedBytes } from "../shape.ts";

export interface GenerateOptions {
  readonly maxima: Maxima;
  readonly sampling: Sampling;
  /** Sequences in flight. */
  readonly slots: number;
  /** Pages of the cache in each layer. */
  readonly pages: number;
  /** Most pages of one sequence. */
  readonly maxPages: number;
  /** Most tokens that are generated for one sequence. */
  readonly maxNew: number;
  /** Number of stop tokens. */
  readonly stops: number;
  /** Bytes of fence around every arena buffer, for tests. */
  readonly guard?: number;
}
type Cache = Pick<GenerateOptions, "pages">;

/** Writes the keys and values of whole contexts and samples the next token of `inputs/rows`. */
export function compilePrefill(config: ModelConfig, o: GenerateOptions): Program {
  const g = new Generation(config, o), { b } = g, rows = dim("tokens");
  const ids = b.input("ids", [rows], "i32"), positions = b.input("positions", [rows], "i32");
  const slots = b.input("tokenSlots", [rows], "i32"), ends = b.input("ends", [dim("sequences")], "i32");
  const x = forward(g.model, g.sequences(ids, positions), (layer, q, k, v, heads) => {
    g.write(layer, k, v, slots, positions);
    return b.attention(q, k, v, ends, heads);
  }).x;
  const sampled = b.input("rows", [dim("actions")], "i32");
  g.sample(hiddenRows(g.model, x, sampled), b.input("slots", [dim("actions")], "i32"));
  return finish("prefill", b, b.ops, o);
}

/** One token of every live slot: reads the newest token of each, appends it to the cache and samples the next one. */
export function compileDecode(config: ModelConfig, o: GenerateOptions): Program {
  const g = new Generation(config, o), { b } = g, slots = b.input("slots", [dim("tokens")], "i32");
  const ids = b.gatherRows(g.state.token, slots), positions = b.gatherRows(g.state.position, slots);
  const { x } = forward(g.model, g.sequences(ids, positions), (layer, q, k, v, h) => {
    g.write(layer, k, v, slots, positions);
    const attrs = [dim("tokens"), h.heads, h.kvHeads, h.headDim, h.window, 1 / Math.sqrt(h.headDim)];
    const ins = [q, g.cache, slots, positions, g.state.pageTable];
    return b.one("pagedAttention", ins, q.shape, [...attrs, layer, o.pages, o.maxPages]);
  });
  g.sample(g.model.norm(x, "model.norm"), slots);
  return finish("decode", b, b.ops, o);
}

/** Copies the pages `inputs/from` to `inputs/to` in every layer; as many as `sequences`. */
export function compileCopyPages(config: ModelConfig, o: Pick<GenerateOptions, "maxima" | "pages">): Program {
  const b = new Builder((v) => reservedBytes(v, o.maxima)),
    n = dim("sequences"),
    cache = declareCache(b, config, o);
  const from = b.input("from", [n], "i32"), to = b.input("to", [n], "i32");
  const attrs: Attr[] = [n, config.kvHeads, config.headDim, config.layers, o.pages];
  b.emit("copyPages", [cache, from, to], [b.value("kv", cache.shape, { place: cache.place })], attrs);
  return finish("copy pages", b, b.ops, o);
}

/** Pages of all layers: keys, then values, of PAGE tokens each. */
const declareCache = (b: Builder, c: ModelConfig, o: Cache): Value =>
  b.declare("kv", "pages", [c.layers * o.pages, 2, c.kvHeads, c.headDim, PAGE]);

/** What prefill and decode share: the model, the cache, and the state of the slots at the same places. */
class Generation {
  readonly b: Builder;
  readonly model: Model;
  readonly state;
  /** The cache as it is after the last write. */
  cache: Value;

  constructor(readonly config: ModelConfig, readonly o: GenerateOptions) {
    const b = this.b = new Builder((v) => reservedBytes(v, o.maxima));
    this.model = new Model(config, "lm", b);
    this.cache = declareCache(b, config, o);
    const integers = (name: string, ...shape: [number, ...number[]]) =>
      b.declare("state", name, shape, { dtype: "i32" });
    this.state = {
      token: integers("token", o.slots),
      position: integers("position", o.slots),
      finished: integers("finished", o.slots),
      count: integers("count", o.slots),
      sampler: integers("sampler", o.slots, 8),
      stops: integers("stops", o.stops),
      outTokens: integers("outTokens", o.slots, o.maxNew),
      outLogprobs: b.declare("state", "outLogprobs", [o.slots, o.maxNew]),
      pageTable: integers("pageTable", o.slots, o.maxPages),
    };
  }

  sequences(ids: Value, positions: Value): Sequences {
    const { maxPositions, headDim } = this.config, rows = Math.min(maxPositions, this.o.maxPages * PAGE);
    return { ids, positions, ropeTable: this.b.declare("constants", "rope", [rows, headDim]) };
  }

  write(layer: number, k: Value, v: Value, slots: Value, positions: Value): void {
    const { kvHeads, headDim } = this.config,
      { pages, maxPages } = this.o,
      { pageTable, finished } = this.state;
    const next = this.b.value("kv", this.cache.shape, { place: this.cache.place });
    const attrs = [k.shape[0]!, kvHeads, headDim, layer, pages, maxPages];
    this.b.emit("kvWrite", [k, v, slots, positions, pageTable, finished], [next], attrs);
    this.cache = next;
  }

  sample(hidden: Value, slots: Value): void {
    const { b, state: s, o } = this, { temperature, topK, topP } = o.sampling;
    const logits = b.matmul(hidden, this.model.headMatrix);
    const ins = [
      logits,
      slots,
      s.token,
      s.position,
      s.finished,
      s.count,
      s.sampler,
      s.stops,
      s.outTokens,
      s.outLogprobs,
    ];
    b.emit("sample", ins, [], [
      slots.shape[0]!,
      this.config.vocab,
      temperature,
      topK,
      topP,
      o.stops,
      o.maxNew,
    ]);
  }
}
