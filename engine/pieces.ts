/** The text that each token adds, for showing numbers token by token. */
import type { Tokenizer } from "./tokenizer.ts";

/** Bytes of the longest UTF-8 sequence: a character is spread over at most this many tokens. */
const LONGEST_CHARACTER = 4;

/**
 * Text of every token, special tokens included. Joined, they are the decoded text: a character that several tokens make
 * together belongs to the last of them, and the others are empty.
 *
 * @param after tokens before the first, see `Tokenizer.decode`
 */
export function pieces(
  tokenizer: Tokenizer,
  ids: ArrayLike<number>,
  after: ArrayLike<number> = [],
): string[] {
  const before = Array.from(after), pending: number[] = [];
  return Array.from(ids, (id, i) => {
    pending.push(id);
    const text = tokenizer.decode(pending, { skipSpecial: false, after: before });
    const unfinished = text.endsWith("\ufffd") && pending.length < LONGEST_CHARACTER && i < ids.length - 1;
    if (unfinished) return "";
    before.push(...pending.splice(0));
    return text;
  });
}
