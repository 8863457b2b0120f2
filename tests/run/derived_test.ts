import assert from "node:assert/strict";
import { script, withWorld } from "./fixtures.ts";

Deno.test("a run says what follows from its sizes before the first step, unless it is quiet", async () => {
  await withWorld(async (world) => {
    const args = ["--world", world, "--steps", "1", "--epochs", "2"];
    const { code, err } = await script("ppo.ts", [...args, "--out", `${world}/out`]);
    assert.equal(code, 0);
    const at = (text: string) => {
      assert.ok(err.includes(text), `${text} is not in ${err}`);
      return err.indexOf(text);
    };
    // The longest prompt has 14 letters, the longest response 12 tokens.
    const told = at(
      "each step: 4 prompts × 2 samples = 8 sequences, up to 26 tokens each, 208 in all; optimizer updates: actor 4, critic 4\n",
    );
    at(
      "micro-batches: 208 tokens (actor.generate, ref.infer × 1, critic.infer × 1, actor.train × 4, critic.train × 4)\n",
    );
    at("\nprecision: fp32\n");
    assert.match(err, /\nmemory: \d+ MiB; most:( [^,]+ MiB( \([^,]+ MiB\))?,?){3}\n/);
    assert.ok(told < err.search(/\bstep 1\b/) || !/\bstep 1\b/.test(err), "said after the first step");
    assert.equal((await script("ppo.ts", [...args, "--quiet", "--out", `${world}/quiet`])).err, "");
  });
});
