import assert from "node:assert/strict";
import { generateText, scoreTokens } from "../../mod.ts";
import { tinyModel, withWorld } from "./fixtures.ts";

Deno.test("scoreTokens() takes sequences longer than its usual batch, and gives each what it has alone", async () => {
  await withWorld(async (world) => {
    const folder = await tinyModel(`${world}/long`, { config: { max_position_embeddings: 6000 } });
    const sequence = (n: number) => ({ tokens: Array.from({ length: n }, (_, i) => (7 * i + n) % 30) });
    const items = [sequence(3), { tokens: sequence(5000).tokens.slice(0, 40) }, sequence(5000), sequence(9)];
    const scores = await Array.fromAsync(scoreTokens(folder, items));
    assert.deepEqual(scores.map((s) => s.logprobs.length), [2, 39, 4999, 8]);
    assert.deepEqual(scores[2]!.logprobs.slice(0, 39), scores[1]!.logprobs);
    const [alone] = await Array.fromAsync(scoreTokens(folder, items.slice(3)));
    assert.deepEqual(scores[3], alone);
  });
});

Deno.test("scoreTokens() can be left early, refuses a bad item by number, and can be used again", async () => {
  await withWorld(async (world) => {
    const items = [{ tokens: [1, 2] }, { tokens: Array.from({ length: 49 }, () => 1) }];
    for await (const { tokens } of scoreTokens(`${world}/policy`, items.slice(0, 1))) {
      assert.deepEqual(tokens, [1, 2]);
      break;
    }
    await assert.rejects(
      Array.fromAsync(scoreTokens(`${world}/policy`, items)),
      /^RangeError: Cannot score item 2: it has 49 tokens/,
    );
    const options = { maxNewTokens: 5, temperature: 0, topP: 1, seed: 1, ignoreEos: true };
    const generated = await generateText(`${world}/policy`, { tokens: [1, 2, 3], ...options });
    const [scored] = await Array.fromAsync(
      scoreTokens(`${world}/policy`, [{ tokens: [1, 2, 3, ...generated.tokens] }]),
    );
    assert.deepEqual(scored!.logprobs.slice(2), generated.logprobs);
  });
});

Deno.test("a model stored in bf16 generates and scores near what it does in fp32, and another precision is refused", async () => {
  await withWorld(async (world) => {
    const items = [{ tokens: [1, 2, 3, 4, 5, 6, 7, 8] }], folder = `${world}/policy`;
    const [single] = await Array.fromAsync(scoreTokens(folder, items));
    const [half] = await Array.fromAsync(scoreTokens(folder, items, { precision: "bf16" }));
    const errors = half!.logprobs.map((x, i) => Math.abs(x - single!.logprobs[i]!));
    assert.ok(errors.some((e) => e > 0) && errors.every((e) => e < 0.1), `${errors}`);
    const options = { maxNewTokens: 5, temperature: 1, topP: 1, seed: 1, ignoreEos: true } as const;
    const { tokens, logprobs } = await generateText(folder, {
      tokens: [1, 2, 3],
      ...options,
      precision: "bf16",
    });
    const [scored] = await Array.fromAsync(
      scoreTokens(folder, [{ tokens: [1, 2, 3, ...tokens] }], { precision: "bf16" }),
    );
    assert.deepEqual(scored!.logprobs.slice(2), logprobs);
    await assert.rejects(
      Array.fromAsync(scoreTokens(folder, items, { precision: "fp8" as "fp32" })),
      /precision is fp8, it must be fp32 or bf16/,
    );
  });
});
