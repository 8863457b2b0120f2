/** PPO under random plans: every call on its own devices with its own strategy says what one device says. */
import assert from "node:assert/strict";
import type { Batch } from "../../engine/batch.ts";
import { estimate } from "../../engine/stats.ts";
import type { StepResult } from "../../engine/stage.ts";
import {
  emptyBatch,
  ONE,
  openPpo,
  type PpoPlan,
  ppoWorkflow,
  randomPlan,
  replayed,
  replayWorkflow,
} from "./ppo.ts";

const STEPS = 5;

interface Recorded {
  readonly batches: readonly Batch[];
  readonly results: readonly StepResult[];
}

async function freeRun(plan: PpoPlan): Promise<Recorded> {
  const { stage, close } = await openPpo(ppoWorkflow(), plan),
    batches: Batch[] = [],
    results: StepResult[] = [];
  try {
    for (let step = 0; step < STEPS; step++) {
      const batch = emptyBatch();
      results.push(await stage.step(step, batch));
      batches.push(batch);
    }
  } finally {
    close();
  }
  return { batches, results };
}

async function replay(plan: PpoPlan, recorded: readonly Batch[]): Promise<StepResult[]> {
  const { stage, close } = await openPpo(replayWorkflow(), plan), results: StepResult[] = [];
  try {
    for (const [step, batch] of recorded.entries()) results.push(await stage.step(step, replayed(batch)));
  } finally {
    close();
  }
  return results;
}

const lastRewards = ({ batches }: Recorded) =>
  batches.slice(-3).flatMap((b) => {
    const rewards = b.numbersOf("rewards");
    assert.equal(rewards.per, "sequence");
    return [...rewards.values as Float32Array];
  });

const one = freeRun(ONE), alone = one.then((r) => replay(ONE, r.batches));
/** Losses, divergences and gradient norms: not times, and not counts, which jump where a value crosses a bound. */
const compared = (metrics: StepResult["metrics"]) =>
  Object.entries(metrics).filter(([name]) => /loss|gradientNorm|klK|approxKl|entropy/.test(name));

Deno.test("replaying its own rollouts gives one device's own metrics, bit for bit", async () => {
  const { results } = await one;
  for (const [step, { metrics }] of (await alone).entries()) {
    for (const [name, value] of compared(metrics)) assert.equal(value, results[step]!.metrics[name], name);
  }
});

for (let seed = 0; seed < 10; seed++) {
  const tp = seed % 2 === 1, plan = randomPlan(seed, { tp });
  const layouts = Object.entries(plan.file.calls).map(([id, c]) =>
    `${id} ${c.strategy.dp}·${c.strategy.tp}·${c.strategy.pp}`
  );
  Deno.test(`PPO under plan ${seed} (${layouts.join(", ")}) agrees with one device`, async () => {
    const recorded = await one, free = await freeRun(plan), again = await replay(plan, recorded.batches);
    if (!tp) {
      assert.deepEqual(free.batches[0]!.tokensOf("tokens"), recorded.batches[0]!.tokensOf("tokens"));
      assert.deepEqual(free.batches[0]!.numbersOf("logprobs"), recorded.batches[0]!.numbersOf("logprobs"));
    }
    for (const [step, { metrics }] of (await alone).entries()) {
      for (const [name, value] of compared(metrics)) {
        const other = again[step]!.metrics[name]!, error = Math.abs(other - value);
        assert.ok(
          error <= 1e-4 * Math.max(1, Math.abs(value)),
          `${name} of step ${step + 1}: ${other}, not ${value}`,
        );
      }
    }
    const [a, b] = [estimate(lastRewards(free)), estimate(lastRewards(recorded))];
    const error = Math.hypot(a.error, b.error);
    assert.ok(Math.abs(a.mean - b.mean) <= 2 * error, `mean rewards ${a.mean} and ${b.mean} ± ${error}`);
  });
}
