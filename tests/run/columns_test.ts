import assert from "node:assert/strict";
import { jsonLines, metricsOf, script, succeeds, withWorld } from "./fixtures.ts";

const LETTERS = "abcdefghijklmnop";
const out = (world: string, name: string) => ["--world", world, "--steps", "1", "--out", `${world}/${name}`];

Deno.test("margins of pairs reach the loss of their own pair, in one mini-batch and in two", async () => {
  await withWorld(async (world) => {
    const rows = [1, 2, 3, 4].map((margin) => ({ prompt: "a", chosen: " b", rejected: " c d", margin }));
    await jsonLines(`${world}/pairs.jsonl`, rows);
    for (const minibatches of ["1", "2"]) {
      const name = `margin-${minibatches}`;
      const args = ["--case", "margin", "--data", "pairs.jsonl", "--minibatches", minibatches];
      await succeeds("columns.ts", [...args, ...out(world, name)]);
      const [line] = metricsOf(`${world}/${name}`);
      assert.equal(line!["judge/margin"], 2.5);
      assert.equal(line!["judge/squared"], 7.5);
    }
  });
});

Deno.test("KTO trains on a data set with a column of mismatched token ids", async () => {
  await withWorld(async (world) => {
    const ids = (from: number, n: number) => Array.from({ length: n }, (_, i) => (from + i) % 26);
    const row = (i: number) => ({
      tokens: ids(i, 5 + i),
      desirable: i % 2,
      mismatchedTokens: ids(3 * i, 14 - i),
    });
    await jsonLines(`${world}/kto.jsonl`, Array.from({ length: 8 }, (_, i) => row(i)));
    await succeeds("columns.ts", ["--case", "kto", "--data", "kto.jsonl", ...out(world, "kto")]);
    const [line] = metricsOf(`${world}/kto`);
    // Actor and reference are one model still: every gain is 0.
    assert.equal(line!["actor/loss"], 0.5);
    assert.ok((line!["actor/gradientNorm"] as number) > 0);

    await jsonLines(`${world}/text.jsonl`, [row(0), { ...row(1), mismatchedTokens: "a text" }]);
    const { code, err } = await script("columns.ts", [
      ...["--case", "kto", "--data", "text.jsonl"],
      ...out(world, "bad"),
    ]);
    assert.equal(code, 1);
    assert.match(err, /text\.jsonl:2: field "mismatchedTokens" must be a list of token ids/);
  });
});

Deno.test("prompts from another column may be longer than every prompt, and are refused by line when none fits", async () => {
  await withWorld(async (world) => {
    const rows = (n: number) =>
      [1, 2, 3, n].map((n) => ({ prompt: "a", question: LETTERS.repeat(3).slice(0, n) }));
    await jsonLines(`${world}/long.jsonl`, rows(40));
    await succeeds("columns.ts", ["--case", "question", "--data", "long.jsonl", ...out(world, "long")]);
    for (const n of [48, 0]) {
      await jsonLines(`${world}/bad.jsonl`, rows(n));
      const { code, err } = await script("columns.ts", [
        ...["--case", "question", "--data", "bad.jsonl"],
        ...out(world, "bad"),
      ]);
      assert.equal(code, 1);
      assert.match(
        err,
        new RegExp(`Cannot read data: .*/bad.jsonl:4: "question" is a prompt of ${n} tokens and 1 to 47 fit`),
      );
    }
  });
});
