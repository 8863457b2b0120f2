import assert from "node:assert/strict";
import fc from "fast-check";
import { RHYMES } from "../../examples/couplets/lexicon.ts";
import { makeData } from "../../examples/couplets/make_data.ts";
import { distinct2, measure } from "../../examples/couplets/measures.ts";
import { FAULTS, pair } from "../../examples/couplets/pairs.ts";
import { APART, FIRST, items, JOINED, SCENERY, SLOTS } from "../../examples/couplets/phrases.ts";
import { pick, random } from "../../examples/couplets/random.ts";
import { judge, RHYME_OF } from "../../examples/couplets/rhyme.ts";
import {
  asPrompt,
  asResponse,
  ENDINGS,
  expand,
  firstLine,
  lastWord,
  secondLine,
  spelled,
  syllables,
} from "../../examples/couplets/verses.ts";

const data = makeData();
const range = (count: number): number[] => Array.from({ length: count }, (_, i) => i);

/** Every opening and every ending that the grammar has, hyphenated. */
const phrases = [
  ...[FIRST, JOINED, APART].flatMap((openings) => Object.values(openings).flat()),
  ...SCENERY,
  ...[...ENDINGS.second.values()].flat().map((ending) => ending.template),
].flatMap(expand);

Deno.test("phrases.ts and lexicon.ts have four syllables in every opening and ending", () => {
  assert.deepEqual(phrases.filter((phrase) => syllables(phrase) !== 4), []);
});

Deno.test("phrases.ts and lexicon.ts hyphenate a word the same way everywhere", () => {
  const hyphenated = new Map<string, string>();
  for (const word of phrases.flatMap((phrase) => phrase.split(" "))) {
    assert.equal(hyphenated.get(spelled(word)) ?? word, word);
    hyphenated.set(spelled(word), word);
  }
});

Deno.test("phrases.ts has a use for every slot and no article before the wrong sound", () => {
  const templates = JSON.stringify([FIRST, JOINED, APART, [...ENDINGS.second.values()]]);
  assert.deepEqual(Object.keys(SLOTS).filter((slot) => !templates.includes(`{${slot}}`)), []);
  assert.deepEqual(phrases.filter((phrase) => /\b[Aa] [aeiou]|\b[Aa]n [^aeiou]/.test(phrase)), []);
});

Deno.test("lexicon.ts ends no two rhymes on one word", () => {
  const owner = new Map<string, string>();
  for (const [rhyme, family] of Object.entries(RHYMES)) {
    for (const word of Object.values(family).flatMap(items).map((entry) => lastWord(spelled(entry)))) {
      assert.equal(owner.get(word) ?? rhyme, rhyme, `${word} stands in ${owner.get(word)} and in ${rhyme}`);
      owner.set(word, rhyme);
    }
  }
  assert.deepEqual(owner, RHYME_OF);
});

Deno.test("secondLine() rhymes exactly when asked to and is well formed", () => {
  for (const index of range(2000)) {
    const draw = random(3, "test", index);
    const first = firstLine(draw), rhymes = index % 2 === 0;
    const response = asResponse(secondLine(first, rhymes, draw));
    assert.deepEqual(
      judge(asPrompt(first), response),
      { rhymes, echoes: false, wellFormed: true },
      `${asPrompt(first)}${response}`,
    );
  }
});

Deno.test("judge() tells rhymes from echoes and verse from what is none", () => {
  const prompt = "A sleepy fox had learned to croon,\n";
  const verdict = (rhymes: boolean, echoes: boolean, wellFormed: boolean) => ({ rhymes, echoes, wellFormed });
  assert.deepEqual(judge(prompt, "and flew a kite beneath the moon."), verdict(true, false, true));
  assert.deepEqual(judge(prompt, "and flew a kite beneath the sky."), verdict(false, false, true));
  assert.deepEqual(judge(prompt, "and in the end began to croon."), verdict(false, true, true));
  assert.deepEqual(judge(prompt, "and flew a kite beneath the moon"), verdict(true, false, false));
  assert.deepEqual(judge(prompt, "and flew a kite a silver spoon."), verdict(true, false, false));
  assert.deepEqual(judge(prompt, "moon."), verdict(true, false, false));
  assert.deepEqual(judge(prompt, ""), verdict(false, false, false));
  assert.deepEqual(judge("", ""), verdict(false, true, false));
  assert.deepEqual(judge(prompt, "and sat beside a golden spoon."), verdict(true, false, true));
});

for (const [name, spoil] of Object.entries(FAULTS)) {
  Deno.test(`FAULTS.${name}() makes a line that echoes or is not well formed`, () => {
    for (const index of range(300)) {
      const draw = random(4, name, index);
      const first = firstLine(draw), line = secondLine(first, true, draw);
      const response = spoil(line, first, draw);
      if (response === asResponse(line)) continue;
      const { echoes, wellFormed } = judge(asPrompt(first), response);
      assert.ok(echoes || !wellFormed, `${asPrompt(first)}${response}`);
      assert.equal(echoes, name === "echo");
    }
  });
}

Deno.test("pair() prefers a rhyme to none and a sound line to a faulty one", () => {
  const kinds = { rhyme: 0, sameOpening: 0, faulty: 0, plainOverFaulty: 0 };
  for (const index of range(3000)) {
    const draw = random(5, "test", index);
    const { prompt, chosen, rejected } = pair(firstLine(draw), draw);
    const better = judge(prompt, chosen), worse = judge(prompt, rejected);
    assert.ok(better.wellFormed && !better.echoes, `${prompt}${chosen}`);
    if (worse.wellFormed && !worse.echoes) {
      assert.ok(better.rhymes && !worse.rhymes, `${prompt}+ ${chosen}\n- ${rejected}`);
      kinds.rhyme++;
      if (chosen.split(" ").slice(0, 3).join() === rejected.split(" ").slice(0, 3).join()) {
        kinds.sameOpening++;
      }
    } else {
      kinds.faulty++;
      if (!better.rhymes) kinds.plainOverFaulty++;
    }
  }
  assert.ok(Math.abs(kinds.rhyme / 3000 - 0.6) < 0.04, JSON.stringify(kinds));
  assert.ok(kinds.sameOpening > 400 && kinds.plainOverFaulty > 250, JSON.stringify(kinds));
});

Deno.test("makeData() keeps held-out prompts out of everything else and rhymes in two of five couplets", () => {
  const { heldout, prompts, sft, pairs } = data;
  const held = new Set(heldout.map(({ prompt }) => prompt));
  assert.equal(held.size, 512);
  assert.equal(new Set(prompts.map(({ prompt }) => prompt)).size, 8192);
  for (const { prompt } of [...prompts, ...sft, ...pairs]) assert.ok(!held.has(prompt), prompt);
  const { rhyming, wellFormed } = measure(
    sft.map(({ prompt, completion }) => ({ prompt, response: completion })),
  );
  assert.ok(rhyming > 0.38 && rhyming < 0.42, `${rhyming}`);
  assert.equal(wellFormed, 1);
});

Deno.test("makeData() writes the committed prompts again", () => {
  for (const name of ["heldout", "prompts"] as const) {
    const file = new URL(`../../examples/couplets/data/${name}.jsonl`, import.meta.url);
    const lines = Deno.readTextFileSync(file).trimEnd().split("\n");
    assert.deepEqual(lines.map((line) => JSON.parse(line)), data[name]);
  }
});

Deno.test("makeData() prefers no last word by its look: chosen and rejected rhymes end on the same words as often", () => {
  const sound = data.pairs.filter(({ prompt, rejected }) => {
    const verdict = judge(prompt, rejected);
    return verdict.wellFormed && !verdict.echoes;
  });
  const counts = new Map<string, number>();
  for (const { chosen, rejected } of sound) {
    const better = RHYME_OF.get(lastWord(chosen))!, worse = RHYME_OF.get(lastWord(rejected))!;
    counts.set(better, (counts.get(better) ?? 0) + 1);
    counts.set(worse, (counts.get(worse) ?? 0) - 1);
  }
  // The difference of two counts of about n each has a standard deviation of √(2n); five of them are a bias.
  const bound = 5 * Math.sqrt(2 * sound.length / Object.keys(RHYMES).length);
  for (const [rhyme, difference] of counts) assert.ok(Math.abs(difference) < bound, `${rhyme} ${difference}`);
});

Deno.test("random() draws every number equally often and each stream for itself", () => {
  const draw = random(1, "test", 0);
  const counts = range(6).map(() => 0);
  for (let i = 0; i < 60000; i++) counts[draw(6)]!++;
  for (const count of counts) assert.ok(Math.abs(count - 10000) < 400, `${counts}`);
  const draws = (index: number) =>
    range(8).map(() => 0).map(((d) => () => d(1000))(random(1, "test", index)));
  assert.deepEqual(draws(1), draws(1));
  assert.notDeepEqual(draws(1), draws(2));
  assert.throws(() => pick(draw, []), RangeError);
});

Deno.test("distinct2() counts different pairs of neighbours over all", () => {
  assert.equal(distinct2(["a b c.", "A b d"]), 3 / 4);
  assert.equal(distinct2(["", "one"]), 0);
  assert.throws(() => measure([]), RangeError);
  fc.assert(fc.property(fc.array(fc.string()), (texts) => {
    const value = distinct2(texts);
    return value >= 0 && value <= 1;
  }));
});
