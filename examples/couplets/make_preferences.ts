/**
 * Writes the small preference data of the algorithm scripts: `deno run -A examples/couplets/make_preferences.ts`. The same
 * version writes the same bytes on every machine.
 *
 * In data/: preferences.jsonl {prompt, chosen, rejected, pairWeight}, two or three pairs of a prompt with 1 ÷ their number
 * as weight; judged.jsonl {prompt, completion, desirable, mismatchedTokens}, single responses with a verdict, and the same
 * prompt with the response to another one; couplets.jsonl {prompt, completion}, rhyming couplets to imitate.
 */
import { type Pair, pair } from "./pairs.ts";
import { random } from "./random.ts";
import { asPrompt, asResponse, firstLine, secondLine } from "./verses.ts";

const SEED = 2;
const PROMPTS = 240;

/** All records. */
export function makePreferences() {
  const lines = Array.from({ length: PROMPTS }, (_, i) => firstLine(random(SEED, "first line", i)));
  const pairs = lines.flatMap((line, i): (Pair & { readonly pairWeight: number })[] => {
    const draw = random(SEED, "pairs", i), count = 2 + draw(2);
    return Array.from({ length: count }, () => ({ ...pair(line, draw), pairWeight: 1 / count }));
  });
  const singles = pairs.map((p, i) => ({ ...p, desirable: i % 2, said: i % 2 ? p.chosen : p.rejected }));
  const judged = singles.map(({ prompt, said, desirable }, i) => {
    const other = singles[(i + 7) % singles.length]!.said;
    return {
      prompt,
      completion: said,
      desirable,
      mismatchedTokens: { prompt, completion: other },
    };
  });
  const couplets = lines.map((line, i) => ({
    prompt: asPrompt(line),
    completion: asResponse(secondLine(line, true, random(SEED, "couplet", i))),
  }));
  return { preferences: pairs, judged, couplets };
}

if (import.meta.main) {
  for (const [name, records] of Object.entries(makePreferences())) {
    const text = records.map((record) => JSON.stringify(record) + "\n").join("");
    await Deno.writeTextFile(new URL(`data/${name}.jsonl`, import.meta.url), text);
  }
}
