/** Reductions of a loss run over the mini-batch: the same whatever ranks and micro-batches hold of it (DESIGN §3.3). */
import assert from "node:assert/strict";
import { adamw, conversations, models, policyLoss, policyModel, type Workflow, workflow } from "../../mod.ts";
import { batchOf } from "../../engine/batch.ts";
import { layoutOf, opened, sequencesOf } from "./layouts.ts";

const actorOf = () => models({ actor: policyModel("random", adamw({ lr: 1e-3 })) }).actor;
const data = conversations("random.jsonl", { batch: 12 }), name = "reduce";

/** A mean over tokens, a mean of means, a sum over a constant, and a metric that uses reductions as it likes. */
const FLOWS: Readonly<Record<string, Workflow>> = {
  "the mean over tokens": workflow({
    name,
    data,
    flow: actorOf().train(policyLoss({}, (now) => ({
      loss: now.logprobs.mean().neg(),
      metrics: { ratio: now.logprobs.square().mean().div(now.logprobs.mean()) },
    }))),
  }),
  "the mean of the sequences' means": workflow({
    name,
    data,
    flow: actorOf().train(policyLoss({}, (now) => now.logprobs.meanPerSequence().mean().neg())),
  }),
  "the sum over a constant": workflow({
    name,
    data,
    flow: actorOf().train(policyLoss({}, (now) => now.logprobs.sumPerSequence().sum().div(-37))),
  }),
};

/** Tokens of a micro-batch for about so many of them on one device; the longest sequence has 30. */
const MICRO = { 1: 200, 3: 70, 7: 32 };

async function metricsOf(flow: Workflow, dp: number, micro: keyof typeof MICRO) {
  const layout = layoutOf(flow, { strategy: { dp, tp: 1, pp: 1 }, microBatchTokens: MICRO[micro] });
  const { stage, close } = await opened(flow, "llama", layout);
  let batches = 0;
  try {
    const { metrics } = await stage.step(0, batchOf(sequencesOf("llama"), 1), {
      onPhase: (_, done) => void (batches = Math.max(batches, done)),
    });
    return { metrics, batches };
  } finally {
    close();
  }
}

for (const [name, flow] of Object.entries(FLOWS)) {
  Deno.test(`${name} does not depend on ranks and micro-batches of uneven lengths`, async () => {
    const one = await metricsOf(flow, 1, 1), seen = new Set<number>();
    for (const dp of [1, 2, 4]) {
      for (const micro of [1, 3, 7] as const) {
        const { metrics, batches } = await metricsOf(flow, dp, micro);
        if (dp === 1) seen.add(batches);
        for (const [metric, value] of Object.entries(one.metrics)) {
          const other = metrics[metric]!, error = Math.abs(other - value);
          assert.ok(
            error <= (dp === 1 ? 0 : 1e-6 * Math.max(1, Math.abs(value))),
            `${metric}, dp ${dp}, ${micro}: ${other}, not ${value}`,
          );
        }
      }
    }
    assert.deepEqual([...seen], [1, 3, 7]);
  });
}
