import assert from "node:assert/strict";
import { Tokenizer } from "@huggingface/tokenizers";
import fc from "fast-check";
import { makeData } from "../../examples/couplets/make_data.ts";
import { SPECIAL, tokenizerConfig, trainTokenizer } from "../../examples/couplets/tokenizer.ts";

const { sft, heldout } = makeData();
const trained = trainTokenizer(sft.map(({ prompt, completion }) => prompt + completion), 1024);
const tokenizer = new Tokenizer(trained, tokenizerConfig);

Deno.test("trainTokenizer() merges the most frequent pair first, and of equals the one of the lowest ids", () => {
  const merges = (texts: readonly string[], count: number) => trainTokenizer(texts, 258 + count).model.merges;
  // bb 4, ab 3, aa 2; then, with bb one token, a·bb 3, aa 2.
  assert.deepEqual(merges(["aabbaabb", "abbb"], 2), ["b b", "a bb"]);
  assert.deepEqual(merges(["cd", "ab"], 2), ["a b", "c d"]);
  // A space belongs to the word after it, and nothing is merged across words.
  assert.deepEqual(merges(["a b a b a b"], 2), ["Ġ b", "Ġ a"]);
});

Deno.test("trainTokenizer() gives bytes the ids 0 to 255 and specials the highest", () => {
  const { model, added_tokens } = trained;
  assert.deepEqual(
    Object.values(model.vocab).toSorted((a, b) => a - b),
    Array.from({ length: 1024 }, (_, id) => id),
  );
  assert.equal(model.vocab["a"], "a".charCodeAt(0));
  assert.equal(model.vocab["Ġ"], " ".charCodeAt(0));
  assert.deepEqual(added_tokens.map(({ id, content }) => [id, content]), [[1022, SPECIAL.begin], [
    1023,
    SPECIAL.end,
  ]]);
  assert.deepEqual(tokenizer.encode(SPECIAL.end).ids, [1023]);
});

Deno.test("trainTokenizer() gives back every text", () => {
  fc.assert(fc.property(fc.string({ unit: "grapheme", minLength: 1 }), (text) => {
    fc.pre(!Object.values(SPECIAL).some((special) => text.includes(special)));
    return tokenizer.decode(tokenizer.encode(text).ids, { skip_special_tokens: false }) === text;
  }));
});

Deno.test("trainTokenizer() writes couplets in few tokens, prompt and response apart as together", () => {
  for (const { prompt, completion: response } of sft.slice(0, 4000)) {
    const [asked, given] = [tokenizer.encode(prompt).ids, tokenizer.encode(response).ids];
    assert.deepEqual([...asked, ...given], tokenizer.encode(prompt + response).ids);
    assert.equal(tokenizer.decode([...asked, ...given]), prompt + response);
    assert.ok(asked.length <= 16 && given.length <= 16, `${prompt}${response}`);
  }
  assert.deepEqual(tokenizer.tokenize(" moon"), ["Ġmoon"]);
});

Deno.test("trainTokenizer() does not depend on the order of the texts", () => {
  const texts = heldout.map(({ prompt }) => prompt);
  assert.deepEqual(trainTokenizer(texts, 400), trainTokenizer(texts.toReversed(), 400));
});

Deno.test("trainTokenizer() writes the committed files again", () => {
  const read = (name: string) =>
    JSON.parse(Deno.readTextFileSync(new URL(`../../examples/couplets/data/${name}`, import.meta.url)));
  assert.deepEqual(read("tokenizer.json"), JSON.parse(JSON.stringify(trained)));
  assert.deepEqual(read("tokenizer_config.json"), { ...tokenizerConfig });
});

Deno.test("trainTokenizer() refuses vocabularies that are too small or too large", () => {
  assert.throws(() => trainTokenizer(["abc"], 257), RangeError);
  assert.throws(() => trainTokenizer(["abc"], 300), RangeError);
});
