/** How a model is cut: pipeline stages between layers, tensor shards inside them, and what a rank holds of every parameter. */
import type { Head } from "../ir/graph.ts";
import { align, type Axis, BYTES, ownRows, PANEL } from "../ir/op.ts";
import type { ParallelStrategy } from "../ir/plan.ts";
import type { Parameter } from "../ir/program.ts";
import type { ModelConfig } from "./models/config.ts";
import { EMBEDDING, type ModelParameter, parameters, storedElements } from "./models/parameters.ts";
import { type Range, stagesOf } from "./stages.ts";

export type { Range } from "./stages.ts";

/** By pipeline stage, then by rank of the tensor-parallel group. */
export type Grid<T> = readonly (readonly T[])[];

/** A piece of a Hugging Face tensor: rows (dim 0, outputs) or columns (dim 1, inputs) from … to. */
export interface Slice extends Range {
  readonly dim: 0 | 1;
}

/** A parameter as one rank holds it: `shape`, `elements` and `offset` are those of the piece in the rank's own segment. */
export interface LocalParameter extends Parameter {
  /** Shape of the whole. */
  readonly global: readonly number[];
  /** The rank's piece; null for all of it. */
  readonly slice: Slice | null;
  /** Ranks whose gradients are partial sums of this piece's: summed over this axis before the update. */
  readonly sync: Exclude<Axis, "dp" | "world"> | null;
  /** Whether this rank (of those with dp 0) counts the piece for the gradient norm: pieces that several hold count once. */
  readonly counts: boolean;
}

/** What the programs of one rank must know of the model: everything but its place in data parallelism. */
export interface Shard {
  readonly config: ModelConfig;
  readonly head: Head;
  readonly stages: number;
  readonly stage: number;
  /** Ranks of the tensor-parallel group, and this one's number among them. */
  readonly tp: number;
  readonly rank: number;
  readonly layers: Range;
  readonly first: boolean;
  readonly last: boolean;
  /** Heads of this rank. */
  readonly heads: number;
  readonly kvHeads: number;
  /** Rows of embedding and language-model head. */
  readonly vocab: Range;
  /** In the order of the rank's `params` segment. */
  readonly parameters: readonly LocalParameter[];
}

/** Why a model cannot be cut so, as predicates ("has 2 stages more than its 5 layers"); none when it can. */
export function layoutViolations(
  config: ModelConfig,
  { tp, pp }: Pick<ParallelStrategy, "tp" | "pp">,
): string[] {
  const { layers, heads, kvHeads, intermediate, vocab } = config, problems: string[] = [];
  if (pp > layers) problems.push(`has ${pp - layers} stages more than its ${layers} layers`);
  if (tp > kvHeads && tp % kvHeads !== 0) {
    problems.push(`has tp ${tp}, neither at most its ${kvHeads} key and value heads nor a multiple of them`);
  } else if (tp > heads) problems.push(`has ${tp - heads} tensor shards more than its ${heads} heads`);
  if (tp > intermediate) {
    problems.push(
      `has ${tp - intermediate} tensor shards more than its ${intermediate} intermediate columns`,
    );
  }
  if (tp > vocab) problems.push(`has ${tp - vocab} tensor shards more than its ${vocab} tokens`);
  return problems;
}

/** Ranks of a tensor-parallel group that hold the same key and value heads: 1 unless there are more ranks than such heads. */
export const kvReplicas = (config: ModelConfig, tp: number): number => Math.max(1, tp / config.kvHeads);

/**
 * What every rank holds, but for data parallelism.
 *
 * @throws RangeError listing the reasons when the model cannot be cut so
 */
export function shardsOf(
  config: ModelConfig,
  head: Head,
  strategy: Pick<ParallelStrategy, "tp" | "pp">,
): Grid<Shard> {
  const { tp, pp } = strategy, problems = layoutViolations(config, strategy);
  if (problems.length) {
    throw new RangeError(
      `Cannot cut the model into ${pp} stages of ${tp} tensor shards: it ${
        problems.join(" and ")
      }, choose smaller ones`,
    );
  }
  const all = parameters(config, head);
  return stagesOf(config, head, pp).map((layers, stage) =>
    Array.from(
      { length: tp },
      (_, rank) => shardOf(config, head, { stages: pp, stage, layers, tp, rank }, all),
    )
  );
}

/** Which part of a model a rank has: a stage with some of the layers, and a place in the tensor-parallel group. */
export type Part = Pick<Shard, "stages" | "stage" | "layers" | "tp" | "rank">;

/**
 * What one rank of a stage with given layers holds.
 *
 * @param all parameters of the whole model, where the caller has them
 */
export function shardOf(
  config: ModelConfig,
  head: Head,
  part: Part,
  all: readonly ModelParameter[] = parameters(config, head),
): Shard {
  const { stage, stages, tp, rank } = part, ranges = rangesOf(config, tp, rank);
  const place = { config, head, ...part, first: stage === 0, last: stage === stages - 1 };
  const { headDim } = config, { heads, kvHeads, vocab } = ranges;
  return {
    ...place,
    heads: (heads.to - heads.from) / headDim,
    kvHeads: (kvHeads.to - kvHeads.from) / headDim,
    vocab,
    parameters: localParameters(all, place, ranges),
  };
}

/** The whole model on one device. */
export const wholeShard = (config: ModelConfig, head: Head): Shard =>
  shardsOf(config, head, { tp: 1, pp: 1 })[0]![0]!;

type Ranges = Readonly<Record<NonNullable<ModelParameter["cut"]>["by"], Range>>;
type Place = Omit<Shard, "heads" | "kvHeads" | "vocab" | "parameters">;

/** Rows (or columns) of a rank in what is cut by heads, by key and value heads, by intermediate columns and by tokens. */
function rangesOf(config: ModelConfig, tp: number, rank: number): Ranges {
  const { headDim, kvHeads, intermediate, vocab } = config, group = config.heads / kvHeads;
  const replicas = kvReplicas(config, tp), holders = tp / replicas, holder = Math.floor(rank / replicas);
  const [kvFrom, kvTo] = ownRows(kvHeads, holder, holders);
  // Query heads follow their key and value head; the replicas of one share its query heads out.
  const [from, to] = ownRows((kvTo - kvFrom) * group, rank % replicas, replicas);
  const range = (from: number, to: number): Range => ({ from: from * headDim, to: to * headDim });
  return {
    heads: range(kvFrom * group + from, kvFrom * group + to),
    kvHeads: range(kvFrom, kvTo),
    intermediate: wholePanels(intermediate, tp, rank),
    vocab: wholePanels(vocab, tp, rank),
  };
}

/** A rank's part of `rows`: whole panels, so that a piece lies in memory as in the whole; single rows where panels are too few. */
function wholePanels(rows: number, tp: number, rank: number): Range {
  const unit = Math.ceil(rows / PANEL) < tp ? 1 : PANEL;
  const [from, to] = ownRows(Math.ceil(rows / unit), rank, tp);
  return { from: from * unit, to: Math.min(rows, to * unit) };
}

/** The parameters of a rank. Those summed over the whole group come first, so that one operation sums all of them. */
function localParameters(all: readonly ModelParameter[], at: Place, ranges: Ranges): LocalParameter[] {
  const pieces = all.filter((p) => isHeld(p, at)).map(({ cut, ...p }): LocalParameter => {
    const slice = cut && at.tp > 1 ? { dim: cut.dim, ...ranges[cut.by] } : null;
    const shape = slice ? p.shape.map((n, dim) => dim === slice.dim ? slice.to - slice.from : n) : p.shape;
    const elements = storedElements({ ...p, shape }), sync = syncOf(p, cut, at);
    return { ...p, global: p.shape, slice, shape, elements, sync, counts: counts(cut, sync, at) };
  });
  let offset = 0;
  // Frozen ones keep the order that they have in a model that is not trained: one memory can be both's.
  const ordered = [pieces.filter((p) => !p.frozen), pieces.filter((p) => p.frozen)].flatMap((part) => [
    ...part.filter((p) => p.sync === "tp"),
    ...part.filter((p) => p.sync !== "tp"),
  ]);
  return ordered.map((p) => {
    const placed = { ...p, offset };
    offset += align(BYTES[p.dtype] * p.elements);
    return placed;
  });
}

/** Those that have gradients and moments: the first ones. */
export const trainedOf = ({ parameters }: Pick<Shard, "parameters">): readonly LocalParameter[] =>
  parameters.filter((p) => !p.frozen);

const isEmbedding = (p: Parameter) => p.name === EMBEDDING;

function isHeld(p: Parameter, { config, head, layers, first, last }: Place): boolean {
  if (p.layer >= 0) return p.layer >= layers.from && p.layer < layers.to;
  return isEmbedding(p) ? first || (last && head === "lm" && config.tied) : last;
}

function syncOf(p: Parameter, cut: ModelParameter["cut"], at: Place): LocalParameter["sync"] {
  if (isEmbedding(p)) return at.stages > 1 && at.head === "lm" && at.config.tied ? "tied" : null;
  if (cut) return cut.by === "kvHeads" && kvReplicas(at.config, at.tp) > 1 ? "kv" : null;
  // Everything behind the last layer of a value or reward model is computed by every rank alike.
  const alike = p.layer < 0 && at.head !== "lm";
  return at.tp > 1 && !alike ? "tp" : null;
}

function counts(
  cut: ModelParameter["cut"],
  sync: LocalParameter["sync"],
  { config, tp, rank, last }: Place,
): boolean {
  if (sync === "tied") return last;
  if (!cut) return rank === 0;
  return cut.by !== "kvHeads" || rank % kvReplicas(config, tp) === 0;
}
