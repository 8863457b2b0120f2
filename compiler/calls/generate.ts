/** Generation: prefill and decode programs over a paged KV cache whose state stays on the device. */
import type { Sampling } from "../../ir/graph.ts";
import { type Attr, dim, type Maxima, PAGE, type Value } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { Builder } from "../builder.ts";
import { finish, named } from "../finish.ts";
import type { Shard } from "../layout.ts";
import { storageOf } from "../models/storage.ts";
import { forward, Model, type Sequences } from "../models/transformer.ts";
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

/**
 * Writes the keys and values of whole contexts and samples the next token of `inputs/rows`. In a pipeline the last stage
 * samples; the others hand on `outputs/y`, which is `inputs/x` of the next.
 */
export function compilePrefill(shard: Shard, o: GenerateOptions): Program {
  const g = new Generation(shard, o), { b } = g, rows = dim("tokens");
  const ids = shard.first ? b.input("ids", [rows], "i32") : undefined,
    positions = b.input("positions", [rows], "i32");
  const slots = b.input("tokenSlots", [rows], "i32"), ends = b.input("ends", [dim("sequences")], "i32");
  const { x } = forward(g.model, g.sequences(ids, positions), (layer, q, k, v, heads) => {
    g.write(layer, k, v, slots, positions);
    return b.attention(q, k, v, ends, heads);
  });
  if (shard.last) {
    const sampled = b.gatherRows(g.model.gather(x), b.input("rows", [dim("actions")], "i32"));
    g.sample(sampled, b.input("slots", [dim("actions")], "i32"));
  } else b.output("y", x);
  return finish(named("prefill", shard), b, b.ops, o);
}

/**
 * One token of every live slot: reads the newest token of each, appends it to the cache and samples the next one. Stages of a
 * pipeline as in {@link compilePrefill}.
 */
export function compileDecode(shard: Shard, o: GenerateOptions): Program {
  const g = new Generation(shard, o), { b } = g, slots = b.input("slots", [dim("tokens")], "i32");
  const ids = b.gatherRows(g.state.token, slots), positions = b.gatherRows(g.state.position, slots);
  const { x } = forward(g.model, g.sequences(ids, positions), (layer, q, k, v, h) => {
    g.write(layer, k, v, slots, positions);
    const attrs = [dim("tokens"), h.heads, h.kvHeads, h.headDim, h.window, 1 / Math.sqrt(h.headDim)];
    const ins = [q, g.cache, slots, positions, g.state.pageTable];
    return b.one("pagedAttention", ins, q.shape, [...attrs, layer, o.pages, o.maxPages]);
  });
  if (shard.last) g.sample(g.model.gather(x), slots);
  else b.output("y", x);
  return finish(named("decode", shard), b, b.ops, o);
}

/** Copies the pages `inputs/from` to `inputs/to` in every layer; as many as `sequences`. */
export function compileCopyPages(shard: Shard, o: Pick<GenerateOptions, "maxima" | "pages">): Program {
  const b = new Builder((v) => reservedBytes(v, o.maxima)), n = dim("sequences");
  const cache = declareCache(b, shard, o), { kvHeads, config: { headDim }, layers } = shard;
  const from = b.input("from", [n], "i32"), to = b.input("to", [n], "i32");
  const attrs: Attr[] = [n, kvHeads, headDim, layers.to - layers.from, o.pages];
  b.emit("copyPages", [cache, from, to], [after(b, cache)], attrs);
  return finish(named("copy pages", shard), b, b.ops, o);
}

/** Pages of all layers of the stage: keys, then values, of PAGE tokens each. */
const declareCache = (b: Builder, { layers, kvHeads, config }: Shard, o: Cache): Value =>
  b.declare("kv", "pages", [(layers.to - layers.from) * o.pages, 2, kvHeads, config.headDim, PAGE], {
    dtype: storageOf(config).weights,
  });

/** The cache as a write leaves it. */
const after = (b: Builder, { shape, dtype, place }: Value): Value => b.value("kv", shape, { dtype, place });

/** What prefill and decode share: the model, the cache, and the state of the slots at the same places. */
class Generation {
  readonly b: Builder;
  readonly model: Model;
  readonly state;
  /** The cache as it is after the last write. */
  cache: Value;

  constructor(readonly shard: Shard, readonly o: GenerateOptions) {
    const b = this.b = new Builder((v) => reservedBytes(v, o.maxima));
    this.model = new Model(shard, b);
    this.cache = declareCache(b, shard, o);
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
      ...(o.sampling.keepSampledMask && {
        outKept: integers("outKept", o.slots, o.maxNew, o.sampling.topK),
      }),
      pageTable: integers("pageTable", o.slots, o.maxPages),
    };
  }

  sequences(ids: Value | undefined, positions: Value): Sequences {
    const { maxPositions, headDim } = this.shard.config,
      rows = Math.min(maxPositions, this.o.maxPages * PAGE);
    return { ids, positions, ropeTable: this.b.declare("constants", "rope", [rows, headDim]) };
  }

  write(layer: number, k: Value, v: Value, slots: Value, positions: Value): void {
    const { kvHeads, config: { headDim } } = this.shard, { pages, maxPages } = this.o;
    const { pageTable, finished } = this.state;
    const next = after(this.b, this.cache);
    const attrs = [k.shape[0]!, kvHeads, headDim, layer, pages, maxPages];
    this.b.emit("kvWrite", [k, v, slots, positions, pageTable, finished], [next], attrs);
    this.cache = next;
  }

  /** Samples a token for every row of the residual stream; with tensor parallelism every rank samples the same. */
  sample(x: Value, slots: Value): void {
    const { b, state: s, o, model, shard: { tp, vocab, config } } = this,
      { temperature, topK, topP } = o.sampling;
    const own = b.matmul(model.norm(x, "model.norm"), model.headMatrix, "f32");
    const logits = tp > 1 ? b.allGatherColumns(own, config.vocab, vocab.from, "tp") : own;
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
      ...(s.outKept ? [s.outKept] : []),
    ];
    b.emit(s.outKept ? "sampleKept" : "sample", ins, [], [
      slots.shape[0]!,
      config.vocab,
      temperature,
      topK,
      topP,
      o.stops,
      o.maxNew,
    ]);
  }
}
