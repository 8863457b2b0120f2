/** What a field of a batch is: how many values it holds, of which kind. Imports nothing. */

/** How many values a field holds: one per action token, per sequence, per preference pair, or one for the batch. */
export type Granularity = "token" | "sequence" | "pair" | "batch";

/** `tokens` is a whole token sequence together with the positions of its actions (see {@link tokenIds}). */
export type DType = "f32" | "text" | "tokens";

/**
 * The type of one field. A per-token field has one value per *action* (DESIGN §3.1) and names in `of` the token field
 * whose actions it belongs to; values that belong to different token fields never mix.
 */
export interface FieldType<
  G extends Granularity = Granularity,
  D extends DType = DType,
  Of extends string | undefined = string | undefined,
> {
  readonly per: G;
  readonly dtype: D;
  readonly of?: Of;
}

/** Named fields. A name is written once, so it is also an edge of the call graph. */
export type Schema = { readonly [name: string]: FieldType };

/** One number per action of the default token field `tokens`. */
export const perToken = { per: "token", dtype: "f32", of: "tokens" } as const;
/**
 * One number per action of another token field: one that a second `generate` or the data set wrote.
 *
 * @example
 * ```ts
 * import { compute, perTokenOf } from "@baton/baton";
 *
 * const confidence = compute("confidence", { greedyLogprobs: perTokenOf("greedyTokens") }, (batch) => ({
 *   confidence: batch.greedyLogprobs.meanPerSequence(),
 * }));
 * ```
 */
export const perTokenOf = <const Of extends string>(of: Of): PerTokenOf<Of> => ({
  per: "token",
  dtype: "f32",
  of,
});
export interface PerTokenOf<Of extends string> {
  readonly per: "token";
  readonly dtype: "f32";
  readonly of: Of;
}
/** One number per sequence. */
export const perSequence = { per: "sequence", dtype: "f32" } as const;
/** One number per preference pair. */
export const perPair = { per: "pair", dtype: "f32" } as const;
/** One number for the whole batch. */
export const perBatch = { per: "batch", dtype: "f32" } as const;
/** Token ids of a sequence (prompt and response) and which of them are actions. */
export const tokenIds = { per: "sequence", dtype: "tokens" } as const;
/** Text of a sequence; lives on the host. */
export const text = { per: "sequence", dtype: "text" } as const;

export type PerToken = typeof perToken;
export type PerSequence = typeof perSequence;
export type PerPair = typeof perPair;
export type PerBatch = typeof perBatch;
export type TokenIds = typeof tokenIds;
export type Text = typeof text;
