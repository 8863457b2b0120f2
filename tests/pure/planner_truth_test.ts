/** The cost model against steps that were measured: a profile and the processor time of a device, both committed. */
import assert from "node:assert/strict";
import { grpo, ONE, pointOf, ppo, truthInput } from "../../bench/truth_plans.ts";
import { profile } from "./planner_fixtures.ts";
import measured from "./truth_sample.json" with { type: "json" };

Deno.test("predicted steps are within 30 % of measured ones", () => {
  const used = profile("cpu");
  for (const make of [ppo, grpo]) {
    const { graph } = make(), { units, candidates, evaluator, input } = truthInput(graph, 1, used);
    ONE.forEach((plan, i) => {
      const { period } = evaluator.of(pointOf(plan, units, candidates, input.workload.sizes.longest));
      const seconds = measured[graph.name as keyof typeof measured][i]!;
      assert.ok(Math.abs(period / seconds - 1) <= 0.3, `${graph.name} ${i}: ${period} for ${seconds}`);
    });
  }
});
