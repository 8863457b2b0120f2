/**
 * Writes preference pairs: of two second lines, the one to prefer rhymes, or is at least well formed. Faulty lines are
 * there so that a policy cannot earn reward by what is no verse at all.
 */
import { pick, type Random } from "./random.ts";
import { asPrompt, asResponse, isNoun, lastWord, type Line, secondLine } from "./verses.ts";

/** Two responses to one prompt, of which people would choose the first. */
export interface Pair {
  readonly prompt: string;
  readonly chosen: string;
  readonly rejected: string;
}

/** A spoilt second line. `line` is sound and rhymes with `first`. */
type Fault = (line: Line, first: Line, draw: Random) => string;

/** The ways to spoil a line, each of which a policy would otherwise find sooner or later. */
export const FAULTS: Readonly<Record<string, Fault>> = {
  /** Ends on the very word on which the first line ends: the cheapest rhyme. */
  echo: (line, first) => {
    const words = line.ending.split(" ").with(-1, lastWord(first.ending));
    return `${line.opening} ${line.kind === first.kind ? first.ending : words.join(" ")}.`;
  },
  /** Stops half-way. */
  half: (line, _, draw) => `${pick(draw, [line.opening, line.ending])}.`,
  /** Never stops. */
  open: (line) => `${line.opening} ${line.ending}`,
  /** Goes on after its ending. */
  long: (line, first, draw) => `${line.opening} ${line.ending} ${secondLine(first, true, draw).ending}.`,
  /** Says a word twice. */
  stutter: (line, _, draw) => {
    const words = wordsOf(line);
    const at = draw(words.length);
    return `${words.toSpliced(at, 0, words[at]!).join(" ")}.`;
  },
  /** Ends in a way that its opening does not allow: "and hummed a tune a silver spoon." */
  clash: (line, first, draw) => {
    for (;;) {
      const other = secondLine(first, true, draw);
      if (isNoun(other.kind) !== isNoun(line.kind)) return `${line.opening} ${other.ending}.`;
    }
  },
  /** Has its words in another order, but for the last. */
  salad: (line, _, draw) => {
    const words = wordsOf(line);
    for (let i = words.length - 2; i > 0; i--) {
      const j = draw(i + 1);
      [words[i], words[j]] = [words[j]!, words[i]!];
    }
    return `${words.join(" ")}.`;
  },
};

const wordsOf = (line: Line): string[] => [...line.opening.split(" "), ...line.ending.split(" ")];

/** Writes a pair about a first line: in three of five, a rhyme against none; else a sound line against a faulty rhyme. */
export function pair(first: Line, draw: Random): Pair {
  const prompt = asPrompt(first);
  if (draw(5) < 3) {
    const chosen = secondLine(first, true, draw), other = secondLine(first, false, draw);
    // With one opening for both, only the rhyme is left to tell them apart.
    const rejected = other.kind === chosen.kind ? { ...other, opening: chosen.opening } : other;
    return { prompt, chosen: asResponse(chosen), rejected: asResponse(rejected) };
  }
  const spoilt = secondLine(first, true, draw);
  // A faulty rhyme is worth less than itself made sound, than another rhyme, and than a sound line without rhyme.
  const chosen = pick(draw, [spoilt, secondLine(first, true, draw), secondLine(first, false, draw)]);
  for (;;) {
    const rejected = pick(draw, Object.values(FAULTS))(spoilt, first, draw);
    if (rejected !== asResponse(spoilt)) return { prompt, chosen: asResponse(chosen), rejected };
  }
}
