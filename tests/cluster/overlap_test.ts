/** Gradients that are summed during the last backward pass are, to the bit, those that are summed behind it. */
import assert from "node:assert/strict";
import { layoutViolations } from "../../compiler/layout.ts";
import type { ParallelStrategy } from "../../ir/plan.ts";
import { FAMILIES, type Family, layoutOf, sequencesOf, stepOf, trainWorkflow } from "./layouts.ts";
import { logprobs } from "./compare.ts";

/** Strategies with several data-parallel ranks; of the four samples of a mini-batch there is none for some of them. */
function strategies(family: Family): ParallelStrategy[] {
  const all: ParallelStrategy[] = [];
  for (const tp of [1, 2, 3, 4]) {
    for (const pp of [1, 2, 3]) {
      for (let dp = 2; dp * tp * pp <= 8 && dp <= 5; dp++) {
        if (!layoutViolations(FAMILIES[family], { tp, pp }).length) all.push({ dp, tp, pp });
      }
    }
  }
  return all;
}

/** One sum for each parameter, some for a few layers, or one for all. */
const BYTES = [1, 20_000, 1e9], MICRO = [31, 64, 200], RECOMPUTE = ["nothing", "logits", "layers"] as const;

for (const family of Object.keys(FAMILIES) as Family[]) {
  for (const [i, strategy] of strategies(family).entries()) {
    const { dp, tp, pp } = strategy;
    Deno.test(`sums beside the backward pass and behind it leave the same weights: ${family} dp${dp} tp${tp} pp${pp}`, async () => {
      const flow = trainWorkflow(), sequences = sequencesOf(family);
      const layout = layoutOf(flow, {
        strategy,
        zero: (i % 2) as 0 | 1,
        microBatchTokens: MICRO[i % 3]!,
        recompute: RECOMPUTE[(i + (i >> 1)) % 3]!,
      });
      const behind = await stepOf(flow, family, { ...layout, overlap: undefined }, sequences);
      for (const bytes of [BYTES[i % 3]!, BYTES[(i + 1) % 3]!]) {
        const beside = await stepOf(flow, family, { ...layout, overlap: { bytes } }, sequences);
        assert.deepEqual(logprobs(beside.batch), logprobs(behind.batch));
        for (const [name, values] of behind.parameters) {
          assert.deepEqual(beside.parameters.get(name), values, `${name}, ${bytes} bytes`);
        }
      }
    });
  }
}
