/** Score functions on the main thread. */
import assert from "node:assert/strict";
import { Batch } from "../../engine/batch.ts";
import { mainThreadScorer } from "../../engine/score.ts";
import type { ScoreCall } from "../../ir/graph.ts";

const SAMPLES = 100, AT_ONCE = 32;
const call: ScoreCall = {
  kind: "score",
  id: "score.rewards",
  reads: { response: "response" },
  writes: { rewards: "rewards" },
};
function batch(): Batch {
  const made = new Batch(SAMPLES, 1, Array.from({ length: SAMPLES }, (_, index) => ({ index, fields: {} })));
  made.texts.set("response", Array.from({ length: SAMPLES }, (_, i) => `${i}`));
  return made;
}
/** Long enough for everything that is going on to go on. */
const settled = () => new Promise((resolve) => setTimeout(resolve, 20));

Deno.test("every sample gets its own score", async () => {
  const scorer = mainThreadScorer(
    ({ response }: { response: string }) => Promise.resolve(2 * Number(response)),
    10,
  );
  const values = await scorer.run(call, batch(), () => {});
  assert.deepEqual([...values], Array.from({ length: SAMPLES }, (_, i) => 2 * i));
});

Deno.test("no score function begins once one has failed, or the run was stopped", async () => {
  let begun = 0;
  const throws = mainThreadScorer(async ({ response }: { response: string }) => {
    begun++;
    await Promise.resolve();
    if (response === "3") throw new Error("no");
    return 1;
  }, 10);
  await assert.rejects(throws.run(call, batch(), () => {}), /sample 3 .* threw "no"/);
  await settled();
  // Those that ended in the same moment may have begun another one.
  assert.ok(begun <= 2 * AT_ONCE, `${begun}: a judge may cost money`);
  begun = 0;
  const stop = new AbortController();
  const slow = mainThreadScorer(async ({ response }: { response: string }) => {
    begun++;
    await Promise.resolve();
    if (response === "4") stop.abort(new Error("enough"));
    return 1;
  }, 10);
  await assert.rejects(slow.run(call, batch(), () => {}, stop.signal), /^Error: enough$/);
  await settled();
  assert.ok(begun <= 2 * AT_ONCE, `${begun}`);
});
