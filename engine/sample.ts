/** One line of a data set → token ids. What a line may look like is written at {@link toSample}. */
import type { DType, Schema } from "../ir/field.ts";
import type { SourceSpec } from "../ir/graph.ts";
import { isObject, type JsonObject } from "./files.ts";
import { LineError } from "./jsonl.ts";
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

/** A text, a number, or a sequence of token ids in which every token but the first is an action. */
export type FieldValue = string | number | ActionTokens;

export interface SampleOptions {
  readonly kind: SourceSpec["kind"];
  /** Declared fields; those that the kind itself provides (`prompt`, `tokens`) may be among them. */
  readonly fields: Schema;
  /** Null when the model has no tokenizer: then only lines with token ids can be read. */
  readonly tokenizer: Tokenizer | null;
  /** Ids must be below: rows of the embedding. */
  readonly vocabulary: number;
  /** Most tokens of a prompt (prompts) or of a whole sequence. */
  readonly maxTokens: number;
}

/** Fields that a kind makes itself rather than reading them from a line. */
const OWN: Readonly<Record<SourceSpec["kind"], readonly string[]>> = {
  prompts: ["prompt"],
  conversations: ["tokens"],
  pairs: ["tokens"],
};

/**
 * Lines, by kind (a *text* is a string, *messages* a list of `{ role, content }`, *ids* a list of token ids):
 * - prompts: `{ prompt: text | messages | ids }`, `{ messages }` or `{ tokens: ids }`.
 * - conversations: `{ text }` and `{ tokens: ids, mask?: 0|1 per token }` (every token is an action unless a mask says
 *   otherwise), `{ messages }` (the assistant's turns are), `{ prompt, completion }` (the completion is).
 * - pairs: `{ prompt, chosen, rejected }`, or `{ chosen, rejected }` as messages whose common beginning is the prompt.
 *
 * A prompt and its completions are all texts, all ids, or messages with a text or messages. A text that ends a sequence
 * gets the tokenizer's end token unless it ends with a stop token already.
 *
 * @throws LineError saying what is wrong with the line
 */
export function toSample(line: JsonObject, index: number, options: SampleOptions): Sample {
  try {
    return { index, ...content(line, options), fields: extraFields(line, options) };
  } catch (error) {
    // Whatever the tokenizer or the template refuses is about this line too.
    throw error instanceof LineError ? error : new LineError((error as Error).message);
  }
}

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
  if (given === undefined) throw new LineError('it has none of "prompt", "messages" and "tokens"');
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
    throw new LineError("the last message of a prompt is the assistant's, leave that turn to the model");
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
  throw new LineError('it has none of "text", "messages", "tokens" and "prompt" with "completion"');
}

function pair(line: JsonObject, options: SampleOptions): readonly [ActionTokens, ActionTokens] {
  const { prompt, chosen, rejected } = line;
  if (chosen === undefined || rejected === undefined) throw new LineError('it lacks "chosen" or "rejected"');
  if (prompt !== undefined) {
    return [completed(prompt, chosen, "chosen", options), completed(prompt, rejected, "rejected", options)];
  }
  const a = messagesOf(chosen, "chosen"), b = messagesOf(rejected, "rejected");
  let from = 0;
  while (from < Math.min(a.length, b.length) && JSON.stringify(a[from]) === JSON.stringify(b[from])) from++;
  const tokenizer = needTokenizer(options);
  return [tokenizer.assistantMask(a, { from }), tokenizer.assistantMask(b, { from })];
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
    throw new LineError(`"prompt" and "${name}" differ in form, give both as text, as ids or as messages`);
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
  return { ids: Int32Array.of(...ids, end), actions: Int32Array.of(...actions, ids.length) };
}

function maskedPositions(length: number, mask: unknown): Int32Array {
  if (mask === undefined) return range(1, length);
  if (!Array.isArray(mask) || mask.length !== length || !mask.every((m) => m === 0 || m === 1)) {
    throw new LineError('"mask" must hold a 0 or 1 for every token');
  }
  return range(1, length).filter((i) => mask[i] === 1);
}

const range = (from: number, to: number): Int32Array =>
  Int32Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);

const isIds = (value: unknown): value is readonly number[] =>
  Array.isArray(value) && value.length > 0 && value.every((id) => Number.isInteger(id));

function messagesOf(value: unknown, name: string): readonly Message[] {
  const good = Array.isArray(value) && value.length > 0 &&
    value.every((m) => isObject(m) && typeof m["role"] === "string" && typeof m["content"] === "string");
  if (!good) throw new LineError(`"${name}" must be a list of { role, content } with texts in both`);
  return value as Message[];
}

function needTokenizer({ tokenizer }: SampleOptions): Tokenizer {
  if (tokenizer === null) throw new LineError("it holds text and the model has no tokenizer, give token ids");
  return tokenizer;
}

function checkedIds(ids: Int32Array, { vocabulary, maxTokens }: SampleOptions, name: string): Int32Array {
  const wrong = ids.findIndex((id) => id < 0 || id >= vocabulary);
  if (wrong >= 0) {
    throw new LineError(`${name}: token id ${ids[wrong]} is outside the vocabulary of ${vocabulary}`);
  }
  if (ids.length === 0) throw new LineError(`${name}: it has no token`);
  if (ids.length > maxTokens) throw new LineError(`${name}: ${ids.length} tokens, at most ${maxTokens} fit`);
  return ids;
}

function checked(tokens: ActionTokens, options: SampleOptions, name = "conversation"): ActionTokens {
  checkedIds(tokens.ids, options, name);
  if (tokens.actions.length === 0) {
    throw new LineError(`${name}: no token of it is the model's own, nothing to learn`);
  }
  return tokens;
}

function extraFields(line: JsonObject, options: SampleOptions): Record<string, FieldValue> {
  const out: Record<string, FieldValue> = {};
  for (const [name, { dtype }] of Object.entries(options.fields)) {
    if (OWN[options.kind].includes(name)) continue;
    const value = line[name];
    if (value === undefined) throw new LineError(`field "${name}" is missing`);
    out[name] = fieldValue(name, value, dtype, options);
  }
  return out;
}

function fieldValue(name: string, value: unknown, dtype: DType, options: SampleOptions): FieldValue {
  if (dtype === "tokens") {
    if (!isIds(value)) throw new LineError(`field "${name}" must be a list of token ids`);
    return checked({ ids: Int32Array.from(value), actions: range(1, value.length) }, options, name);
  }
  const good = dtype === "text" ? typeof value === "string" : Number.isFinite(value);
  if (!good) throw new LineError(`field "${name}" must be a ${dtype === "text" ? "text" : "finite number"}`);
  return value as string | number;
}
