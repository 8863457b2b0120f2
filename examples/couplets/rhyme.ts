/** Judges verse: does the second line rhyme, and is it one that the grammar can write? For printing, never for reward. */
import { APART, JOINED, type Kind } from "./phrases.ts";
import { ENDINGS, expand, isNoun, lastWord, spelled } from "./verses.ts";

/** What there is to say about a response to a prompt. */
export interface Verdict {
  /** Its last word has the rhyme of the prompt's last word, and is another word. */
  readonly rhymes: boolean;
  /** It ends on the very word on which the prompt ends. */
  readonly echoes: boolean;
  /** It is one opening and one ending that fit, and a full stop; so it scans, too. */
  readonly wellFormed: boolean;
}

/** The rhyme of every word on which a line may end. */
export const RHYME_OF: ReadonlyMap<string, string> = new Map(
  [...ENDINGS.second.values()].flat().map((ending) => [lastWord(spelled(ending.template)), ending.rhyme]),
);

const OPENINGS: ReadonlyMap<string, ReadonlySet<Kind>> = (() => {
  const kinds = new Map<string, Set<Kind>>();
  for (const openings of [JOINED, APART]) {
    for (const [kind, templates] of Object.entries(openings) as [Kind, readonly string[]][]) {
      for (const text of templates.flatMap(expand).map(spelled)) {
        kinds.set(text, (kinds.get(text) ?? new Set()).add(kind));
      }
    }
  }
  return kinds;
})();

const KIND_OF_ENDING: ReadonlyMap<string, Kind> = new Map(
  [...ENDINGS.second.values()].flat().flatMap((ending) =>
    expand(ending.template).map((text) => [spelled(text), ending.kind] as const)
  ),
);

/** Judges a response, without its stop token, to a prompt. */
export function judge(prompt: string, response: string): Verdict {
  const asked = lastWord(prompt), given = lastWord(response);
  const echoes = asked === given;
  const rhyme = RHYME_OF.get(given);
  return {
    rhymes: !echoes && rhyme !== undefined && rhyme === RHYME_OF.get(asked),
    echoes,
    wellFormed: isLine(response),
  };
}

/** Whether a response is an opening, a space, an ending of a kind that fits, and a full stop. */
function isLine(response: string): boolean {
  if (!response.endsWith(".")) return false;
  const tokens = response.slice(0, -1).split(" ");
  return tokens.some((_, cut) => {
    const kind = KIND_OF_ENDING.get(tokens.slice(cut).join(" "));
    const asked = OPENINGS.get(tokens.slice(0, cut).join(" "));
    return kind !== undefined && asked !== undefined &&
      (asked.has(kind) || isNoun(kind) && [...asked].some(isNoun));
  });
}
