/** One row of a data set → token ids. What a row may look like is written at {@link toSample}. */
import type { DType } from "../ir/field.ts";
import type { SourceSpec } from "../ir/graph.ts";
import { joinInts } from "./arrays.ts";
import { byOwnNames, columnOf } from "./columns.ts";
import { isObject, type JsonObject } from "./files.ts";
import { isMessages, messagesOf, transcriptOf, transcriptParts, trimmed } from "./messages.ts";
import { RowError } from "./row.ts";
import type { ActionTokens, Message, Tokenizer } from "./tokenizer.ts";

/** One prompt, conversation or preference pair. */
export interface Sample {
  /** Position in the file, from 0: a name that shuffling does not change. */
  readonly index: number;
  /** What the model is asked to continue (prompts). */
  readonly prompt?: { readonly ids: Int32Array; readonly text: string };
  /** The prompt as messages, where the data gives them: another model renders them with its own template. */
  readonly messages?: readonly Message[];
  /** A whole sequence (conversations), or the chosen one of a pair. */
  readonly tokens?: ActionTokens;
  /** The rejected sequence of a pair. */
  readonly rejected?: ActionTokens;
  /** The further fields that the source declares. */
  readonly fields: Readonly<Record<string, FieldValue>>;
}

/** A text, a number, or a sequence of token ids: of a bare list, every one but the first is an action. */
export type FieldValue = string | number | ActionTokens;

/** Of the source: `fields` may hold those that the kind itself provides (`prompt`, `tokens`) too. */
export interface SampleOptions extends Pick<SourceSpec, "kind" | "fields" | "columns" | "chat"> {
  /** Null when the model has no tokenizer: then only lines with token ids can be read. */
  readonly tokenizer: Tokenizer | null;
  /** Ids must be below: rows of the embedding. */
  readonly vocabulary: number;
  /** Most tokens of a prompt (prompts) or of a whole sequence. */
  readonly maxTokens: number;
  /** Whole sequences that are longer end there. */
  readonly cut?: boolean;
}

/** Fields that a kind makes itself rather than reading them from a line. */
const OWN: Readonly<Record<SourceSpec["kind"], readonly string[]>> = {
  prompts: ["prompt"],
  conversations: ["tokens"],
  pairs: ["tokens"],
};

/** A row that is longer than what fits: whether that is an error is for the source to say. */
export class TooLong extends RowError {}

/**
 * Rows, by kind (a *text* is a string, *messages* a list of `{ role, content }`, *ids* a list of token ids), once their
 * columns have Baton's names (`columns.ts`):
 * - prompts: `{ prompt: text | messages | ids }`, `{ messages }` or `{ tokens: ids }`.
 * - conversations: `{ text }` and `{ tokens: ids, mask?: 0|1 per token }` (every token is an action unless a mask says
 *   otherwise), `{ messages }` (the assistant's turns are), `{ prompt, completion }` (the completion is).
 * - pairs: `{ prompt, chosen, rejected }`, or `{ chosen, rejected }` as messages, or as texts of turns, whose common beginning
 *   is the prompt.
 *
 * A prompt and its completions are all texts, all ids, or messages with a text or messages. A text that ends a sequence
 * gets the tokenizer's end token unless it ends with a stop token already. With `chat`, texts are turns of a conversation. A
 * system text goes before either.
 *
 * @throws RowError saying what is wrong with the row
 */
export function toSample(row: JsonObject, index: number, options: SampleOptions): Sample {
  try {
    const own = withSystem(byOwnNames(row, options.kind, options.columns), options);
    return { index, ...content(own, options), fields: extraFields(row, options) };
  } catch (error) {
    // Whatever the tokenizer or the template refuses is about this row too.
    throw error instanceof RowError ? error : new RowError((error as Error).message);
  }
}

/** The row without its system text, which becomes a first message or the first paragraph; with `chat`, texts become messages. */
function withSystem({ system, ...row }: JsonObject, { chat }: SampleOptions): JsonObject {
  const said = typeof system === "string" && system !== "" ? system : null, { prompt } = row;
  if (typeof prompt === "string") {
    if (!chat) return said === null ? row : { ...row, prompt: `${said}\n\n${prompt}` };
    return { ...row, prompt: withFirst(said, [{ role: "user", content: prompt }]) };
  }
  const key = prompt === undefined ? "messages" : "prompt", given = row[key];
  return said === null || !isMessages(given)
    ? row
    : { ...row, [key]: withFirst(said, messagesOf(given, key)) };
}
const withFirst = (system: string | null, messages: readonly Message[]): readonly Message[] =>
  system === null || messages[0]?.role === "system"
    ? messages
    : [{ role: "system", content: system }, ...messages];

type Content = Omit<Sample, "index" | "fields">;

function content(line: JsonObject, options: SampleOptions): Content {
  switch (options.kind) {
    case "prompts":
      return promptOf(line, options);
    case "conversations":
      return { tokens: checked(conversation(line, options), options) };
    case "pairs": {
      const [chosen, rejected] = pair(line, options);
      return { tokens: checked(chosen, options, "chosen"), rejected: checked(rejected, options, "rejected") };
    }
  }
}

function promptOf(line: JsonObject, options: SampleOptions): Content {
  const given = line["prompt"] ?? line["messages"] ?? line["tokens"];
  if (given === undefined) throw new RowError('it has none of "prompt", "messages" and "tokens"');
  if (isIds(given)) {
    const ids = checkedIds(Int32Array.from(given), options, "prompt");
    return { prompt: { ids, text: options.tokenizer?.decode(ids, { skipSpecial: false }) ?? "" } };
  }
  const tokenizer = needTokenizer(options);
  if (typeof given === "string") {
    return { prompt: { ids: checkedIds(tokenizer.encode(given), options, "prompt"), text: given } };
  }
  const messages = messagesOf(given, "prompt");
  if (messages.at(-1)!.role === "assistant") {
    throw new RowError("the last message of a prompt is the assistant's, leave that turn to the model");
  }
  const ids = checkedIds(tokenizer.encodeChat(messages), options, "prompt");
  return { prompt: { ids, text: tokenizer.render(messages, { addGenerationPrompt: true }) }, messages };
}

function conversation(line: JsonObject, options: SampleOptions): ActionTokens {
  const { text, messages, tokens, mask, prompt, completion } = line;
  if (prompt !== undefined && completion !== undefined) {
    return completed(prompt, completion, "completion", options);
  }
  if (messages !== undefined) return needTokenizer(options).assistantMask(messagesOf(messages, "messages"));
  if (typeof text === "string") {
    return withEnd(needTokenizer(options).encodeParts([{ text, action: true }]), options);
  }
  if (isIds(tokens)) return { ids: Int32Array.from(tokens), actions: maskedPositions(tokens.length, mask) };
  throw new RowError('it has none of "text", "messages", "tokens" and "prompt" with "completion"');
}

function pair(line: JsonObject, options: SampleOptions): readonly [ActionTokens, ActionTokens] {
  const { chosen, rejected, messages, prompt = messages } = line;
  if (chosen === undefined || rejected === undefined) throw new RowError('it lacks "chosen" or "rejected"');
  // Some data sets give the prompt as a text too, beside whole conversations.
  const repeated = isMessages(chosen) && messagesOf(chosen, "chosen")[0]!.role !== "assistant";
  if (prompt !== undefined && !repeated) {
    const from = typeof prompt === "string" && isMessages(chosen)
      ? [{ role: "user", content: prompt }]
      : prompt;
    return [completed(from, chosen, "chosen", options), completed(from, rejected, "rejected", options)];
  }
  const spoken = [transcriptOf(chosen), transcriptOf(rejected)] as const, tokenizer = needTokenizer(options);
  if (spoken[0] && spoken[1] && !tokenizer.hasTemplate) {
    const from = commonLength(spoken[0], spoken[1]);
    const tokens = spoken.map((turns) =>
      withEnd(tokenizer.encodeParts(transcriptParts(turns!, from)), options)
    );
    return [tokens[0]!, tokens[1]!];
  }
  const a = spoken[0] ? trimmed(spoken[0]) : messagesOf(chosen, "chosen");
  const b = spoken[1] ? trimmed(spoken[1]) : messagesOf(rejected, "rejected"), from = commonLength(a, b);
  return [tokenizer.assistantMask(a, { from }), tokenizer.assistantMask(b, { from })];
}

/** Messages that two conversations begin with; two that are equal differ in their last, for there is nothing else to compare. */
function commonLength(a: readonly Message[], b: readonly Message[]): number {
  const most = Math.min(a.length, b.length);
  let from = 0;
  while (from < most && JSON.stringify(a[from]) === JSON.stringify(b[from])) from++;
  return from === a.length && from === b.length ? from - 1 : from;
}

/** A prompt followed by what the model should say. */
function completed(prompt: unknown, completion: unknown, name: string, options: SampleOptions): ActionTokens {
  if (isIds(prompt) && isIds(completion)) {
    const ids = Int32Array.from([...prompt, ...completion]);
    return { ids, actions: range(Math.max(1, prompt.length), ids.length) };
  }
  const tokenizer = needTokenizer(options);
  if (typeof prompt === "string" && typeof completion === "string") {
    return withEnd(
      tokenizer.encodeParts([{ text: prompt, action: false }, { text: completion, action: true }]),
      options,
    );
  }
  if (typeof prompt === "string" || isIds(prompt)) {
    throw new RowError(`"prompt" and "${name}" differ in form, give both as text, as ids or as messages`);
  }
  const before = messagesOf(prompt, "prompt");
  const answer = typeof completion === "string"
    ? [{ role: "assistant", content: completion }]
    : messagesOf(completion, name);
  return tokenizer.assistantMask([...before, ...answer], { from: before.length });
}

/** Appends the end token as an action, so that the model learns to stop. */
function withEnd({ ids, actions }: ActionTokens, { tokenizer }: SampleOptions): ActionTokens {
  const end = tokenizer!.eosId, last = ids.at(-1);
  if (end === null || last === undefined || tokenizer!.stopIds.includes(last)) return { ids, actions };
  return { ids: joinInts([ids, [end]]), actions: joinInts([actions, [ids.length]]) };
}

function maskedPositions(length: number, mask: unknown): Int32Array {
  if (mask === undefined) return range(1, length);
  if (!Array.isArray(mask) || mask.length !== length || !mask.every((m) => m === 0 || m === 1)) {
    throw new RowError('"mask" must hold a 0 or 1 for every token');
  }
  return range(1, length).filter((i) => mask[i] === 1);
}

const range = (from: number, to: number): Int32Array =>
  Int32Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);

const isIds = (value: unknown): value is readonly number[] =>
  Array.isArray(value) && value.length > 0 && value.every((id) => Number.isInteger(id));

function needTokenizer({ tokenizer }: SampleOptions): Tokenizer {
  if (tokenizer === null) throw new RowError("it holds text and the model has no tokenizer, give token ids");
  return tokenizer;
}

function checkedIds(ids: Int32Array, { vocabulary, maxTokens }: SampleOptions, name: string): Int32Array {
  const wrong = ids.findIndex((id) => id < 0 || id >= vocabulary);
  if (wrong >= 0) {
    throw new RowError(`${name}: token id ${ids[wrong]} is outside the vocabulary of ${vocabulary}`);
  }
  if (ids.length === 0) throw new RowError(`${name}: it has no token`);
  if (ids.length > maxTokens) throw new TooLong(`${name}: ${ids.length} tokens, at most ${maxTokens} fit`);
  return ids;
}

function checked(given: ActionTokens, options: SampleOptions, name = "conversation"): ActionTokens {
  const tokens = options.cut ? cutBehind(given, options.maxTokens, name) : given;
  checkedIds(tokens.ids, options, name);
  if (tokens.actions.length === 0) {
    throw new RowError(`${name}: no token of it is the model's own, nothing to learn`);
  }
  return tokens;
}

function cutBehind(tokens: ActionTokens, maxTokens: number, name: string): ActionTokens {
  if (tokens.ids.length <= maxTokens) return tokens;
  const actions = tokens.actions.filter((at) => at < maxTokens);
  if (actions.length) return { ids: tokens.ids.slice(0, maxTokens), actions };
  throw new TooLong(`${name}: none of the model's own tokens is among the first ${maxTokens}`);
}

function extraFields(line: JsonObject, options: SampleOptions): Record<string, FieldValue> {
  const out: Record<string, FieldValue> = {};
  for (const [name, { dtype }] of Object.entries(options.fields)) {
    if (OWN[options.kind].includes(name)) continue;
    const given = columnOf(line, name, options.columns),
      value = typeof given === "boolean" ? Number(given) : given;
    if (value === undefined) throw new RowError(`field "${name}" is missing`);
    out[name] = fieldValue(name, value, dtype, options);
  }
  return out;
}

function fieldValue(name: string, value: unknown, dtype: DType, options: SampleOptions): FieldValue {
  if (dtype === "tokens") {
    if (isObject(value)) return checked(conversation(withSystem(value, options), options), options, name);
    if (!isIds(value)) throw new RowError(`field "${name}" must be a list of token ids or a conversation`);
    return checked({ ids: Int32Array.from(value), actions: range(1, value.length) }, options, name);
  }
  const good = dtype === "text" ? typeof value === "string" : Number.isFinite(value);
  if (!good) throw new RowError(`field "${name}" must be a ${dtype === "text" ? "text" : "finite number"}`);
  return value as string | number;
}
