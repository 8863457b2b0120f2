/** What a run that fails leaves behind. */
import assert from "node:assert/strict";
import { afterSizes, jsonLines, listing, metricsOf, ROOT, script, succeeds, withWorld } from "./fixtures.ts";

const CONFIG = { deno: ["--config", `${ROOT}deno.json`] };
/** Prompts in the order of the file; the second step has one whose loss is not finite, in one of four mini-batches. */
const own = (world: string, worst: string) => `
import { adamw, models, perSequence, perToken, policyLoss, policyModel } from "file://${ROOT}mod.ts";
import { prompts, run, score, text, workflow } from "file://${ROOT}mod.ts";
const { actor } = models({ actor: policyModel("${world}/policy", adamw({ lr: 1e-3 })) });
const judge = score("rewards", { prompt: text }, ({ prompt }) => prompt === "seven" ? ${worst} : 1);
const loss = policyLoss({ logprobs: perToken, rewards: perSequence }, (now, batch) => ({
  loss: now.logprobs.mul(batch.rewards.square().spread()).mean().neg(),
}));
const flow = actor.generate({ maxNewTokens: 4 }).then(judge).then(actor.train(loss, { minibatches: 4 }));
const own = workflow({ name: "own", data: prompts("${world}/prompts.jsonl", { batch: 4, shuffle: false }), flow });
export default own;
if (import.meta.main) await run(own, { steps: 3 });
`;
const NAMES = ["one", "two", "three", "four", "five", "six", "seven", "eight"];

Deno.test("a loss that is not a number keeps the steps before it, unless the step has updated weights already", async () => {
  await withWorld(async (world) => {
    await jsonLines(`${world}/prompts.jsonl`, NAMES.map((prompt) => ({ prompt })));
    await Deno.writeTextFile(`${world}/bad.ts`, own(world, "1e30"));
    const seen = new Set<boolean>();
    for (const seed of ["1", "2", "3", "4", "5", "6"]) {
      const out = `${world}/out${seed}`;
      const { code, err } = await script(`${world}/bad.ts`, ["--out", out, "--seed", seed], CONFIG);
      assert.equal(code, 1);
      const said = /\nerror: Cannot train in actor\.train: the loss of update (\d) is [^\n]+\n$/.exec(err);
      assert.ok(said, err);
      const first = said[1] === "5";
      seen.add(first);
      assert.equal(/^Kept after step 1 of 3: /m.test(err), first, err);
      assert.equal("/checkpoints/step-000001/" in listing(out), first);
      if (seen.size === 2) break;
    }
    assert.equal(seen.size, 2, "both kinds of failures");
  });
});

Deno.test("a full disk is one line, and leaves the checkpoints that there are", async () => {
  await withWorld(async (world) => {
    const out = `${world}/out`, args = ["--world", world, "--out", out];
    await succeeds("ppo.ts", [...args, "--steps", "1"]);
    const before = listing(`${out}/checkpoints`);
    // Every write to this device fails with ENOSPC.
    await Deno.symlink("/dev/full", `${out}/samples.jsonl.tmp`);
    const { code, err } = await script("ppo.ts", [...args, "--steps", "2", "--resume"]);
    assert.match(
      afterSizes(err),
      /^error: Cannot write into \S+\/out: No space left on device[^\n]*, free some space there\n$/,
    );
    assert.equal(code, 1);
    assert.deepEqual(listing(`${out}/checkpoints`), before);
    await Deno.remove(`${out}/samples.jsonl.tmp`);
    await succeeds("ppo.ts", [...args, "--steps", "2", "--resume"]);
    assert.equal(metricsOf(out).length, 2);
  });
});
