/** Results in bf16 do not depend on the plan either, but for the partial sums of tensor parallelism, which are rounded. */
import assert from "node:assert/strict";
import { type Storage, storedIn } from "../../compiler/models/storage.ts";
import { largest, logprobs, relative } from "./compare.ts";
import {
  FAMILIES,
  type Family,
  generateWorkflow,
  layoutOf,
  type LayoutOptions,
  opened,
  promptsOf,
  sequencesOf,
  stepOf,
  trainWorkflow,
} from "./layouts.ts";

const cut = (dp: number, tp: number, pp: number) => ({ dp, tp, pp });
const LAYOUTS: readonly LayoutOptions[] = [
  { strategy: cut(1, 1, 1), microBatchTokens: 40, recompute: "layers" },
  { strategy: cut(1, 1, 3), microBatchTokens: 64, recompute: "cheap" },
  { strategy: cut(3, 1, 1), microBatchTokens: 64, zero: 1 },
  { strategy: cut(2, 1, 2), microBatchTokens: 40, recompute: "layers", zero: 1 },
  { strategy: cut(1, 2, 1), microBatchTokens: 64 },
  { strategy: cut(2, 2, 2), microBatchTokens: 40, recompute: "cheap", zero: 1 },
];

const trained = (family: Family, o: LayoutOptions) =>
  stepOf(trainWorkflow(), family, layoutOf(trainWorkflow(), o), sequencesOf(family));
const sampled = (family: Family, o: LayoutOptions) =>
  stepOf(generateWorkflow(), family, layoutOf(generateWorkflow(), o), promptsOf(family));

/** What a reader gives of a tensor, as one array. */
function together(pieces: Iterable<Float32Array>): Float32Array {
  const all: number[] = [];
  for (const piece of pieces) all.push(...piece);
  return Float32Array.from(all);
}

Deno.test("a parameter or a moment that comes and goes some rows at a time is the one that comes and goes as a whole, under every layout and precision", async () => {
  for (const storage of [undefined, storedIn("bf16")]) {
    for (const [i, o] of LAYOUTS.entries()) {
      const flow = trainWorkflow(), layout = layoutOf(flow, { ...o, ...storage && { storage } });
      const { stage, close } = await opened(flow, "llama", layout), home = stage.engine.home("actor");
      for (const p of stage.engine.models.actor!.parameters) {
        const [rows = 1, width = 1] = p.shape,
          values = Float32Array.from({ length: rows * width }, (_, i) => i / 7);
        // Panels, and rows that are none.
        const step = i % 2 ? 32 : 7;
        for (const what of ["param", "m"] as const) {
          for (let row = 0; row < rows; row += step) {
            home.write(p.name, values.subarray(row * width, Math.min(rows, row + step) * width), what, row);
          }
          assert.deepEqual(home.read(p, what), values, p.name);
          assert.deepEqual(together(home.reader(what, 40)(p)), values, p.name);
          home.write(p.name, values.map((x) => -x), what);
          assert.deepEqual(home.read(p, what), values.map((x) => -x), p.name);
        }
      }
      close();
    }
  }
});

/**
 * How far a parameter may be from the one rank's when its gradient is summed over ranks. A key's bias has no gradient but what rounding
 * leaves of it, which Adam makes as large as any other step; bf16 keys carry that into what is trained beside it.
 */
const overRanks = (family: Family, parameter: string): number =>
  family === "llama" ? 1e-4 : parameter.endsWith("k_proj.bias") ? 1e-2 : 1e-3;

for (const family of Object.keys(FAMILIES) as Family[]) {
  for (const gradients of ["fp32", "bf16"] as const) {
    const storage: Storage = storedIn("bf16", gradients), one = trained(family, { storage });
    const alone = sampled(family, { storage });
    for (const o of LAYOUTS) {
      const { dp, tp, pp } = o.strategy!, rounded = tp > 1 || gradients === "bf16";
      const name = `${family} dp${dp} tp${tp} pp${pp}, gradients ${gradients}`;
      Deno.test(`the same log-probabilities, master copies and tokens in bf16: ${name}`, async () => {
        const expected = await one, many = await trained(family, { ...o, storage });
        const difference = largest(logprobs(many.batch), logprobs(expected.batch));
        assert.ok(difference <= (tp === 1 ? 0 : 0.1), `log-probabilities differ by ${difference}`);
        for (const [parameter, values] of many.parameters) {
          const error = relative(values, expected.parameters.get(parameter)!);
          const most = rounded ? 0.1 : dp === 1 ? 0 : overRanks(family, parameter);
          assert.ok(error <= most, `${parameter} differs by ${error} after three updates`);
        }
        const shared = await sampled(family, { ...o, storage });
        if (tp > 1) return;
        assert.deepEqual(shared.batch.tokensOf("tokens").ids, (await alone).batch.tokensOf("tokens").ids);
        assert.equal(largest(logprobs(shared.batch), logprobs((await alone).batch)), 0);
      });
    }
  }
}
