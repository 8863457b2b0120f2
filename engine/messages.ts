/** Conversations as data sets write them → messages with a role and a content. */
import { isObject } from "./files.ts";
import { RowError } from "./row.ts";
import type { Message } from "./template.ts";

/** Roles of ShareGPT and its relatives. Other roles stay as they are: the template decides. */
const ROLES: Readonly<Record<string, string>> = {
  human: "user",
  gpt: "assistant",
  chatgpt: "assistant",
  bot: "assistant",
  model: "assistant",
  observation: "tool",
};

/** `{ role, content }` or `{ from, value }`, one or a list of them; a content may be a list of text parts. */
export function messagesOf(value: unknown, name: string): readonly Message[] {
  const list = isObject(value) ? [value] : value;
  const messages = Array.isArray(list) ? list.map(messageOf) : [];
  if (messages.length === 0 || messages.includes(null)) {
    throw new RowError(`"${name}" must be a list of { role, content } with texts in both`);
  }
  return messages as readonly Message[];
}

/** Whether a column holds messages rather than text or token ids. */
export const isMessages = (value: unknown): boolean =>
  isObject(value) || (Array.isArray(value) && value.some(isObject));

function messageOf(value: unknown): Message | null {
  if (!isObject(value)) return null;
  const { from, value: said, role = from, content = said, ...rest } = value;
  const text = textOf(content);
  if (typeof role !== "string" || text === null) return null;
  const further = Object.fromEntries(Object.entries(rest).filter(([, v]) => v !== null));
  return { ...further, role: ROLES[role] ?? role, content: text };
}

function textOf(content: unknown): string | null {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return null;
  const parts = content.map((part) => isObject(part) && part["type"] === "text" ? part["text"] : null);
  return parts.every((part) => typeof part === "string") ? parts.join("") : null;
}

const SPEAKER = /\n\n(Human|Assistant):/;

/**
 * A conversation in one text, as in Anthropic's hh-rlhf: "\n\nHuman: …\n\nAssistant: …". Null for any other text. Contents keep
 * the space before them, so that the turns spell the text.
 */
export function transcriptOf(value: unknown): readonly Message[] | null {
  if (typeof value !== "string") return null;
  const [before, ...turns] = value.split(SPEAKER);
  if (before !== "" || turns.length === 0) return null;
  return Array.from({ length: turns.length / 2 }, (_, i) => ({
    role: turns[2 * i] === "Human" ? "user" : "assistant",
    content: turns[2 * i + 1]!,
  }));
}

/** Messages of a transcript for a chat template. */
export const trimmed = (messages: readonly Message[]): readonly Message[] =>
  messages.map((m) => ({ ...m, content: m.content.trim() }));

/** A transcript as texts again, for a model without a chat template; assistant turns from message `from` on are actions. */
export const transcriptParts = (messages: readonly Message[], from: number) =>
  messages.flatMap(({ role, content }, i) => [
    { text: role === "user" ? "\n\nHuman:" : "\n\nAssistant:", action: false },
    { text: content, action: role === "assistant" && i >= from },
  ]);
