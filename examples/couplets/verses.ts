/**
 * Writes couplets. A line is an opening of four syllables and an ending of four syllables of the kind that the opening
 * asks for; the second line rhymes with the first when told to.
 */
import { RHYMES } from "./lexicon.ts";
import { APART, BEFORE, FIRST, items, JOINED, type Kind, type Openings, SCENERY, SLOTS } from "./phrases.ts";
import { pick, type Random } from "./random.ts";

/** A way to end a line: a template with slots, and the name of its rhyme in {@link RHYMES}. */
export interface Ending {
  readonly kind: Kind;
  readonly template: string;
  readonly rhyme: string;
}

/** A first or second line without its last punctuation. */
export interface Line {
  readonly opening: string;
  readonly ending: string;
  readonly kind: Kind;
  readonly rhyme: string;
  /** Whether its subject is somebody, whom a second line may go on about. */
  readonly somebody: boolean;
}

/** How often a kind of ending is drawn, relative to the others. */
const WEIGHTS: Readonly<Record<Kind, number>> = { tail: 4, thing: 3, creature: 2, predicate: 3 };

/** Which kind of ending a part of speech makes. */
const KIND_OF = {
  things: "thing",
  creatures: "creature",
  verbs: "predicate",
  adjectives: "predicate",
} as const;

/** A noun phrase: openings for objects and for living beings may swap their endings and still be English. */
export const isNoun = (kind: Kind): boolean => kind === "thing" || kind === "creature";

/** "mac-a-roon" → "macaroon". */
export const spelled = (hyphenated: string): string => hyphenated.replaceAll("-", "");

/** Number of syllables of hyphenated text. */
export const syllables = (hyphenated: string): number => hyphenated.split(/[ -]/).length;

/** The words of spelled text, without punctuation. */
export const words = (text: string): readonly string[] => text.match(/[A-Za-z']+/g) ?? [];

/** The last word of spelled text, or "" if there is none. */
export const lastWord = (text: string): string => words(text).at(-1) ?? "";

/** No slot holds a word like "hour" or "unicorn", so the letter decides. */
const withArticles = (text: string): string => text.replace(/\b([Aa]) (?=[aeiou])/g, "$1n ");

const slotWords = (slot: string): readonly string[] => {
  const choices = SLOTS[slot];
  if (choices === undefined) throw new RangeError(`Cannot fill {${slot}}: phrases.ts has no such slot`);
  return choices;
};

/** Every text, hyphenated, that a template can become. */
export function expand(template: string): readonly string[] {
  const slot = /\{(\w+)\}/.exec(template);
  if (slot === null) return [withArticles(template)];
  return slotWords(slot[1]!).flatMap((word) => expand(template.replace(slot[0], word)));
}

/** One text that a template can become, as it is spelled. */
const write = (template: string, draw: Random): string =>
  spelled(withArticles(template.replace(/\{(\w+)\}/g, (_, slot) => pick(draw, slotWords(slot)))));

function endingsOf(rhyme: string, last: boolean): readonly Ending[] {
  const family = RHYMES[rhyme]!;
  const tails = [...items(family.tails), ...(last ? items(family.closings ?? "") : [])];
  const phrases = (["things", "creatures", "verbs", "adjectives"] as const).flatMap((part) =>
    items(family[part] ?? "").map((word): Ending => {
      const before = BEFORE[part][syllables(word) - 1];
      if (before === undefined) {
        throw new RangeError(`Cannot end a line on ${word}: it has over three syllables`);
      }
      return { kind: KIND_OF[part], template: `${before} ${word}`, rhyme };
    })
  );
  return [...tails.map((template): Ending => ({ kind: "tail", template, rhyme })), ...phrases];
}

/** The endings of every rhyme, for first and for second lines. */
export const ENDINGS = {
  first: new Map(Object.keys(RHYMES).map((rhyme) => [rhyme, endingsOf(rhyme, false)])),
  second: new Map(Object.keys(RHYMES).map((rhyme) => [rhyme, endingsOf(rhyme, true)])),
} as const;

/** Draws an ending: its kind by weight, then any of that kind. */
function drawEnding(endings: readonly Ending[], draw: Random): Ending {
  const present = new Set(endings.map((ending) => ending.kind));
  const kinds = [...present].flatMap((kind) => Array<Kind>(WEIGHTS[kind]).fill(kind));
  const kind = pick(draw, kinds);
  return pick(draw, endings.filter((ending) => ending.kind === kind));
}

const RHYME_NAMES = Object.keys(RHYMES);

/** Writes a first line. */
export function firstLine(draw: Random): Line {
  for (;;) {
    const rhyme = pick(draw, RHYME_NAMES);
    const { kind, template } = drawEnding(ENDINGS.first.get(rhyme)!, draw);
    const somebody = kind !== "tail" || draw(4) > 0;
    const opening = write(pick(draw, somebody ? FIRST[kind] : SCENERY), draw);
    const line = { opening, ending: write(template, draw), kind, rhyme, somebody };
    if (!repeats(text(line))) return line;
  }
}

/** Writes a second line that does, or does not, rhyme with the first. */
export function secondLine(first: Line, rhymes: boolean, draw: Random): Line {
  for (;;) {
    const rhyme = rhymes ? first.rhyme : pick(draw, RHYME_NAMES.filter((name) => name !== first.rhyme));
    const { kind, template } = drawEnding(ENDINGS.second.get(rhyme)!, draw);
    const openings: Openings = first.somebody && draw(4) > 0 ? JOINED : APART;
    const opening = write(pick(draw, openings[kind]), draw);
    const line = { opening, ending: write(template, draw), kind, rhyme, somebody: true };
    const echoes = lastWord(line.ending) === lastWord(first.ending);
    if (!echoes && !repeats(`${text(first)} ${text(line)}`)) return line;
  }
}

const text = (line: Line): string => `${line.opening} ${line.ending}`;

/** Whether a word of four letters or more stands twice, be it as a plural: two lines are too short for that. */
function repeats(verse: string): boolean {
  const long = words(verse).filter((word) => word.length >= 4).map((word) => word.replace(/'?s$/, ""));
  return new Set(long).size < long.length;
}

/** The prompt of a first line: "A silver fox sat on a stone,\n". */
export const asPrompt = (line: Line): string => `${text(line)[0]!.toUpperCase()}${text(line).slice(1)},\n`;

/** The response of a second line: "and hummed a tune on cobblestone.". */
export const asResponse = (line: Line): string => `${text(line)}.`;
