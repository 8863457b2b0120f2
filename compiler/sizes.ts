/** From the sizes of a run's data to the largest dims of its programs. */
import type { ModelFunctionCall } from "../ir/graph.ts";
import { type Maxima, PAGE } from "../ir/op.ts";
import type { Assignment, ParallelStrategy } from "../ir/plan.ts";
import { keepsTogether } from "./expression.ts";
import type { ModelConfig } from "./models/config.ts";
import { NO_ROWS } from "./shape.ts";

/** What the data of a run bounds, over the whole step: lengths in tokens, known before anything is compiled. */
export interface DataSizes {
  /** Sequences in a step: prompts × samples, conversations, or 2 × pairs. */
  readonly sequences: number;
  /** Sequences that share a prompt (or a pair) and are neighbours. */
  readonly group: number;
  readonly longestPrompt: number;
  /** Longest whole sequence: prompt and response, or a data set's own. */
  readonly longest: number;
  /** Most actions in one sequence. */
  readonly longestResponse: number;
}

/** Sizes of the KV cache of a generate call: of one rollout, of which every data-parallel rank has {@link generateGroups}. */
export interface CacheSizes {
  readonly slots: number;
  readonly pages: number;
  readonly maxPages: number;
  readonly maxNew: number;
  readonly stops: number;
  /** Tokens of the longest prompt that all of this was sized for. */
  readonly longestPrompt: number;
}

/** Decode rows in flight on a device: enough to keep the products wide, few enough that pages stay small. */
const MOST_SLOTS = 128;

/** Rollouts that a data-parallel rank has in flight, each with its own cache and state: one for every pipeline stage. */
export const generateGroups = (strategy: Pick<ParallelStrategy, "pp">): number => strategy.pp;

const maxima = (m: Partial<Maxima>): Maxima => ({ ...NO_ROWS, ...m });

/** Rows of a residual stream of `tokens` that a rank of `tp` owns at most. */
const shard = (tokens: number, tp: number): number => tp > 1 ? Math.ceil(tokens / tp) : 0;

/** A whole step's batch. */
export const stepMaxima = (s: DataSizes): Maxima =>
  maxima({
    actions: s.sequences * s.longestResponse,
    sequences: s.sequences,
    groups: Math.ceil(s.sequences / s.group),
    pairs: Math.floor(s.sequences / 2),
  });

/** A micro-batch. */
export function microMaxima({ microBatchTokens: tokens, strategy }: Assignment, s: DataSizes): Maxima {
  const sequences = Math.min(s.sequences, tokens);
  return maxima({
    tokens,
    actions: Math.min(tokens, s.sequences * s.longestResponse),
    sequences,
    groups: sequences,
    pairs: Math.floor(sequences / 2),
    shard: shard(tokens, strategy.tp),
  });
}

/** Sizes of one rollout's cache. */
export function cacheSizes(
  config: ModelConfig,
  { strategy }: Assignment,
  s: DataSizes,
  o: { readonly maxNew: number; readonly stops: number; readonly pages?: number | undefined },
): CacheSizes {
  const groups = generateGroups(strategy), most = Math.max(1, Math.floor(MOST_SLOTS / groups));
  const slots = Math.min(most, Math.ceil(s.sequences / strategy.dp / groups));
  const maxPages = Math.floor(Math.min(s.longestPrompt + o.maxNew, config.maxPositions) / PAGE) + 1;
  return {
    slots,
    pages: o.pages ?? slots * maxPages,
    maxPages,
    maxNew: o.maxNew,
    stops: Math.max(1, o.stops),
    longestPrompt: s.longestPrompt,
  };
}

/** A prefill of whole contexts, and a decode step of every slot. */
export function generateMaxima(
  { microBatchTokens, strategy }: Assignment,
  s: DataSizes,
  { slots }: CacheSizes,
): { readonly prefill: Maxima; readonly decode: Maxima } {
  const tokens = Math.max(microBatchTokens, s.longest);
  return {
    prefill: maxima({ tokens, actions: slots, sequences: slots, shard: shard(tokens, strategy.tp) }),
    decode: maxima({ tokens: slots, sequences: slots, shard: shard(slots, strategy.tp) }),
  };
}

/** Neighbouring sequences that a micro-batch must not part: only a loss that compares them asks for more than one (DESIGN §3.3). */
export function together(call: ModelFunctionCall, group: number): number {
  if (call.kind !== "train") return 1;
  const scope = keepsTogether(call.loss);
  return scope === "sequence" ? 1 : scope === "pair" ? 2 : group;
}
