/** Score functions in a worker, without a run. */
import assert from "node:assert/strict";
import { Batch } from "../../engine/batch.ts";
import type { ScoreCall } from "../../ir/graph.ts";
import { digest } from "../../ir/digest.ts";
import { startScoreWorker } from "../../run/score_workers.ts";
import twoScores from "./scripts/two_scores.ts";

const SAMPLES = 40;
const script = new URL("./scripts/two_scores.ts", import.meta.url).href;

Deno.test("two score functions that run at once each get their own values", async () => {
  const worker = await startScoreWorker(script, digest(twoScores.graph), 30);
  assert.ok(typeof worker !== "string", String(worker));
  const batch = new Batch(SAMPLES, 1, Array.from({ length: SAMPLES }, (_, index) => ({ index, fields: {} })));
  const texts = Array.from({ length: SAMPLES }, (_, i) => "x".repeat(i % 7) + i % 10);
  batch.texts.set("response", texts);
  const [long, digits] = twoScores.graph.calls.filter((c): c is ScoreCall => c.kind === "score");
  const never = Promise.withResolvers<never>(),
    timer = setTimeout(() => never.reject(new Error("it hangs")), 10_000);
  try {
    const all = Promise.all([long!, digits!].map((call) => worker.scorer.run(call, batch, () => {})));
    const [lengths, last] = await Promise.race([all, never.promise]);
    assert.deepEqual([...lengths!], texts.map((t) => t.length));
    assert.deepEqual([...last!], texts.map((t) => -Number(t.at(-1))));
  } finally {
    clearTimeout(timer);
    worker.dispose();
  }
});
