/**
 * Sentiment of a text by a lexicon in the format of VADER (Hutto & Gilbert 2014): one token per line, TAB, its mean
 * valence from −4 to 4, then columns that are not needed here. Only words count; the emoticons of the lexicon are read
 * and never match.
 */

/** Valence by lower-case token. */
export type Lexicon = ReadonlyMap<string, number>;

/**
 * Reads a lexicon.
 *
 * @throws {Error} Naming every line that has no token or no finite valence.
 */
export function parseLexicon(text: string): Lexicon {
  const lexicon = new Map<string, number>();
  const faults: string[] = [];
  text.replace(/^\uFEFF/, "").split(/\r?\n/).forEach((line, index) => {
    if (line.trim() === "") return;
    const [token, valence] = line.split("\t").map((column) => column.trim());
    const value = valence === undefined || valence === "" ? NaN : Number(valence);
    if (token === undefined || token === "" || !Number.isFinite(value)) {
      faults.push(`line ${index + 1} is ${JSON.stringify(line)}`);
    } else lexicon.set(token.toLowerCase(), value);
  });
  if (faults.length > 0) {
    throw new Error(`Cannot read the sentiment lexicon: ${faults.join("; ")}, write token TAB valence`);
  }
  return lexicon;
}

/** The words of a text: runs of letters, lower case. */
export const wordsOf = (text: string): readonly string[] => text.toLowerCase().match(/\p{L}+/gu) ?? [];

/**
 * Sum of the valences of a text's words over the square root of their number, so that length is worth something but
 * repetition ever less; 0 for a text without words.
 */
export function sentiment(text: string, lexicon: Lexicon): number {
  const words = wordsOf(text);
  if (words.length === 0) return 0;
  return words.reduce((sum, word) => sum + (lexicon.get(word) ?? 0), 0) / Math.sqrt(words.length);
}
