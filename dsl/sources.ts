/** What the data sets of a script give each step. Nothing is read here: the engine opens the file. */
import {
  type PerPair,
  type PerSequence,
  type Schema,
  type Text,
  text,
  type TokenIds,
  tokenIds,
} from "../ir/field.ts";
import type { SourceSpec } from "../ir/graph.ts";
import { checkName, type None } from "./fields.ts";
import { oneOf, positive, refuse } from "./options.ts";
import { at, callSite } from "./site.ts";

/** A data set whose rows hold the fields `F`. */
export interface Source<F extends Schema> extends SourceSpec {
  readonly fields: F;
}
/** A column of a data set: text, a number or token ids per sequence. */
type Column = Text | PerSequence | TokenIds;
type Columns<C> = { readonly [name: string]: C };

export interface SourceOptions<F> {
  /** Rows per step: prompts, conversations or pairs. */
  readonly batch: number;
  /**
   * More columns of the file, by name. One of token ids is a list of them, every one but the first an action, or holds what a row of
   * `conversations()` may: `{ prompt, completion }`, `{ messages }`, `{ tokens, mask }`.
   */
  readonly fields?: F;
  /** Seeded order, new in every epoch. Default true. */
  readonly shuffle?: boolean;
  /** Share of the rows kept for `evaluate` and never trained on. Default 0. */
  readonly heldOut?: number;
  /**
   * Where the file calls a column something else, Baton's name (or that of a field) → the column, `a.b` for b inside a. Names of
   * common public data sets are known without (docs/data.md).
   */
  readonly columns?: Readonly<Record<string, string>>;
  /** Prompts and completions that are texts become turns of a conversation, in the model's chat template. Default false. */
  readonly chat?: boolean;
  /** Most tokens of a prompt or a whole sequence. Default, and at most, the models' context. */
  readonly maxTokens?: number;
  /**
   * What to do with rows that are longer: an error, leave them out, or cut whole sequences behind their first tokens
   * (conversations and pairs; what keeps no action is left out, as are prompts, which would ask something else). Default
   * "refuse".
   */
  readonly longRows?: "refuse" | "skip" | "truncate";
}

function source<F extends Schema>(
  kind: SourceSpec["kind"],
  path: string,
  options: SourceOptions<Schema>,
  own: Schema,
): Source<F> {
  const { batch, fields = {}, shuffle = true, heldOut = 0, columns, chat, maxTokens } = options;
  const { longRows = "refuse" } = options;
  const site = callSite();
  if (typeof path !== "string" || path === "") {
    throw new TypeError(`Cannot read ${kind}${at(site)}: give the path of a file`);
  }
  Object.keys(fields).forEach((name) => checkName("field", name));
  refuse(`read ${kind} from ${path}${at(site)}`, [
    positive("batch", batch, "whole"),
    !(heldOut >= 0 && heldOut < 1) && `heldOut is ${heldOut}, it must be at least 0 and below 1`,
    oneOf("longRows", longRows, ["refuse", "skip", "truncate"]),
    maxTokens !== undefined && positive("maxTokens", maxTokens, "whole"),
    ...Object.keys(fields).filter((name) => name in own).map((name) =>
      `field "${name}" is its own, give the column another name`
    ),
    ...Object.entries(fields).filter(([, t]) => t.per === "token" || t.per === "batch")
      .map(([name, t]) => `field "${name}" is per ${t.per}, a data set has values per sequence`),
  ]);
  return {
    kind,
    path,
    batch,
    fields: { ...own, ...fields } as never,
    shuffle,
    heldOut,
    ...(columns && { columns }),
    ...(chat && { chat }),
    ...(maxTokens !== undefined && { maxTokens }),
    ...(longRows !== "refuse" && { longRows }),
  };
}

/**
 * Prompts to generate from: a JSONL, JSON or Parquet file with `prompt` (text or chat messages, rendered by the model's template) or
 * token ids. Columns of public data sets are known by their names (docs/data.md); `data/train-*.parquet` are several files.
 *
 * @throws TypeError without a path, RangeError that lists every option out of range
 * @example
 * ```ts
 * import { prompts, text } from "@baton/baton";
 *
 * const questions = prompts("data/gsm8k.jsonl", { batch: 64, fields: { answer: text }, heldOut: 0.05 });
 * ```
 */
export function prompts<const F extends Columns<Column> = None>(
  path: string,
  options: SourceOptions<F>,
): Source<{ readonly prompt: Text } & F> {
  return source("prompts", path, options as SourceOptions<Schema>, { prompt: text });
}

/**
 * Whole conversations to learn from: a JSONL, JSON or Parquet file with chat messages, text or token ids. The assistant's turns are the actions
 * of `tokens`; in rows without turns every token but the first is one.
 *
 * @throws as {@link prompts}
 * @example
 * ```ts
 * import { conversations } from "@baton/baton";
 *
 * const chats = conversations("data/chats.jsonl", { batch: 32 });
 * ```
 */
export function conversations<const F extends Columns<Column> = None>(
  path: string,
  options: SourceOptions<F>,
): Source<{ readonly tokens: TokenIds } & F> {
  return source("conversations", path, options as SourceOptions<Schema>, { tokens: tokenIds });
}

/**
 * Preference pairs: a JSONL, JSON or Parquet file with a prompt, a `chosen` and a `rejected` answer. Each pair is two sequences of `tokens`,
 * which `pairs()` tells apart in a loss.
 *
 * @throws as {@link prompts}
 * @example
 * ```ts
 * import { perPair, preferences } from "@baton/baton";
 *
 * const comparisons = preferences("data/preferences.jsonl", { batch: 128, fields: { margin: perPair } });
 * ```
 */
export function preferences<const F extends Columns<Column | PerPair> = None>(
  path: string,
  options: SourceOptions<F>,
): Source<{ readonly tokens: TokenIds } & F> {
  return source("pairs", path, options as SourceOptions<Schema>, { tokens: tokenIds });
}
