import assert from "node:assert/strict";
import { parseLexicon, sentiment, wordsOf } from "../../examples/sentiment/vader.ts";

/** Made up, in VADER's format: token, mean, standard deviation, ratings. */
const LEXICON = parseLexicon(
  [
    "$:\t-1.5\t0.80623\t[-1, -1, -2]",
    ":)\t2.0\t1.1\t[1, 2, 3]",
    "( '}{' )\t1.6\t0.7\t[1, 2, 2]",
    "lovely\t2.8\t0.6\t[3, 2, 3]",
    "Dreadful\t-2.5\t0.5\t[-2, -3]",
    "can't stand\t-2.0\t0.5\t[-2, -2]",
    "",
  ].join("\r\n"),
);

Deno.test("parseLexicon() reads words and emoticons, in lower case", () => {
  assert.deepEqual([...LEXICON], [
    ["$:", -1.5],
    [":)", 2],
    ["( '}{' )", 1.6],
    ["lovely", 2.8],
    ["dreadful", -2.5],
    ["can't stand", -2],
  ]);
});

Deno.test("parseLexicon() names every line that is none", () => {
  assert.throws(
    () => parseLexicon("good\t1.9\nbad\n\nworse\tmuch\n\t3\nnone\t\n"),
    (error: Error) =>
      ["line 2", "line 4", "line 5", "line 6"].every((line) => error.message.includes(line)) &&
      !error.message.includes("line 1"),
  );
});

Deno.test("sentiment() sums valences over the square root of the number of words", () => {
  assert.equal(sentiment("A lovely, LOVELY film", LEXICON), 5.6 / 2);
  assert.equal(sentiment("lovely:) dreadful", LEXICON), (2.8 - 2.5) / Math.sqrt(2));
  assert.equal(sentiment("nothing to report", LEXICON), 0);
});

Deno.test("sentiment() is 0 without words", () => {
  assert.equal(sentiment("", LEXICON), 0);
  assert.equal(sentiment(" :) 42 $: ", LEXICON), 0);
});

Deno.test("wordsOf() splits on everything but letters", () => {
  assert.deepEqual(wordsOf("It's a B-movie — déjà vu!"), ["it", "s", "a", "b", "movie", "déjà", "vu"]);
});
