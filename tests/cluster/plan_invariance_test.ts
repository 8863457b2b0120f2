/** Results do not depend on the plan (DESIGN §1.6): every legal strategy of two model families on up to 8 devices. */
import assert from "node:assert/strict";
import { layoutViolations } from "../../compiler/layout.ts";
import { type ParallelStrategy, RECOMPUTE } from "../../ir/plan.ts";
import {
  FAMILIES,
  type Family,
  generateWorkflow,
  layoutOf,
  promptsOf,
  sequencesOf,
  stepOf,
  trainWorkflow,
} from "./layouts.ts";
import { largest, logprobs, relative } from "./compare.ts";

/** All strategies of up to 8 devices that the model can be cut by. */
function strategies(family: Family): ParallelStrategy[] {
  const all: ParallelStrategy[] = [];
  for (let tp = 1; tp <= 8; tp++) {
    for (let pp = 1; pp <= 8; pp++) {
      for (let dp = 1; dp * tp * pp <= 8; dp++) {
        if (!layoutViolations(FAMILIES[family], { tp, pp }).length) all.push({ dp, tp, pp });
      }
    }
  }
  return all;
}

/** Micro-batches, ZeRO and recomputation take turns, so that every value meets every axis. */
const MICRO = [40, 64, 200];
const variants = (family: Family) =>
  strategies(family).flatMap((strategy, i) =>
    [i, i + 1].map((n) => ({
      strategy,
      microBatchTokens: MICRO[n % 3]!,
      zero: (n % 2) as 0 | 1,
      recompute: RECOMPUTE[(n + 1) % 4]!,
    }))
  );

for (const family of Object.keys(FAMILIES) as Family[]) {
  const trained = stepOf(trainWorkflow(), family, layoutOf(trainWorkflow(), {}), sequencesOf(family));
  const sampled = stepOf(generateWorkflow(), family, layoutOf(generateWorkflow(), {}), promptsOf(family));
  for (const o of variants(family)) {
    const { dp, tp, pp } = o.strategy;
    const name =
      `${family} dp${dp} tp${tp} pp${pp}, ${o.microBatchTokens} tokens, zero ${o.zero}, recompute ${o.recompute}`;
    Deno.test(`the same log-probabilities, parameters and tokens: ${name}`, async () => {
      const one = await trained,
        many = await stepOf(trainWorkflow(), family, layoutOf(trainWorkflow(), o), sequencesOf(family));
      const difference = largest(logprobs(many.batch), logprobs(one.batch));
      assert.ok(difference <= (tp === 1 ? 0 : 1e-5), `log-probabilities differ by ${difference}`);
      for (const [parameter, values] of many.parameters) {
        const error = relative(values, one.parameters.get(parameter)!);
        assert.ok(
          error <= (dp * tp === 1 ? 0 : 1e-5),
          `${parameter} differs by ${error} after three updates`,
        );
      }
      const alone = (await sampled).batch;
      const shared =
        (await stepOf(generateWorkflow(), family, layoutOf(generateWorkflow(), o), promptsOf(family))).batch;
      const distance = largest(logprobs(shared), logprobs(alone));
      assert.ok(distance <= (tp === 1 ? 0 : 1e-5), `sampled log-probabilities differ by ${distance}`);
      assert.deepEqual(shared.tokensOf("tokens").ids, alone.tokensOf("tokens").ids);
    });
  }
}
