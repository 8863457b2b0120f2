/** Finding the assistant's own text in a rendered conversation. */
import type { ChatTemplate, Message } from "./template.ts";

/** Consecutive text; `action` marks what the model writes. */
export interface Part {
  readonly text: string;
  readonly action: boolean;
}

const ADVICE = "use { prompt, completion } lines instead";

/**
 * Cuts a rendered conversation where the assistant's turns begin and end, from message `from` on: each begins after the
 * generation prompt and ends with `stop`, the special token that ends a turn (null: where the next turn begins).
 * Throws when the template rewrites earlier turns, so that they cannot be located exactly.
 */
export function assistantParts(
  template: ChatTemplate,
  messages: readonly Message[],
  stop: string | null,
  from: number,
): readonly Part[] {
  const full = template.render(messages, false);
  const parts: Part[] = [];
  let done = 0;
  for (let i = from; i < messages.length; i++) {
    if (messages[i]!.role !== "assistant") continue;
    const where = `message ${i + 1} of ${messages.length}`;
    const prompt = template.render(messages.slice(0, i), true);
    if (!full.startsWith(prompt) || prompt.length < done) {
      throw new Error(
        `Cannot locate the assistant's text: rendered up to ${where}, the conversation does not begin as the whole does ` +
          `(the template of ${template.origin} rewrites earlier turns), ${ADVICE}`,
      );
    }
    const end = stop === null
      ? endOfPrefix(template, messages.slice(0, i + 1), full, where)
      : endOfTurn(full, prompt.length, stop, messages[i]!, where);
    parts.push({ text: full.slice(done, prompt.length), action: false });
    parts.push({ text: full.slice(prompt.length, end), action: true });
    done = end;
  }
  return [...parts, { text: full.slice(done), action: false }];
}

function endOfTurn(full: string, start: number, stop: string, message: Message, where: string): number {
  if (message.content.includes(stop)) {
    throw new Error(`Cannot use ${where}: its text contains ${stop}, which ends a turn, remove it`);
  }
  const at = full.indexOf(stop, start);
  if (at < 0) {
    throw new Error(`Cannot locate the end of the assistant's text in ${where}: no ${stop} follows it`);
  }
  return at + stop.length;
}

function endOfPrefix(
  template: ChatTemplate,
  upToHere: readonly Message[],
  full: string,
  where: string,
): number {
  const text = template.render(upToHere, false);
  if (full.startsWith(text)) return text.length;
  throw new Error(
    `Cannot locate the end of the assistant's text in ${where}: the template of ${template.origin} ends turns with no ` +
      `special token and rewrites earlier ones, ${ADVICE}`,
  );
}
