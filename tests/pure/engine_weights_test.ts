import assert from "node:assert/strict";
import fc from "fast-check";
import { fromStored, initialValues, savedConfig, toStored } from "../../engine/weights.ts";
import { panelElements } from "../../ir/op.ts";
import type { Parameter } from "../../ir/program.ts";

const parameter = (
  shape: readonly number[],
  layout: "rows" | "panels",
  init: Parameter["init"] = "normal",
): Parameter => ({
  name: `w${shape.join("x")}`,
  shape,
  layout,
  matrix: shape.length === 2,
  layer: 0,
  init,
  offset: 0,
  elements: layout === "panels" ? panelElements(shape[0]!, shape[1]!) : shape.reduce((n, d) => n * d, 1),
});

const matrices = fc.tuple(fc.integer({ min: 1, max: 70 }), fc.integer({ min: 1, max: 600 }));

Deno.test("toStored() puts element (n, k) where ir/op.ts says, and zero past the last row", () => {
  fc.assert(
    fc.property(matrices, ([n, k]) => {
      const p = parameter([n, k], "panels");
      const stored = toStored(p, Float32Array.from({ length: n * k }, (_, i) => i + 1));
      assert.equal(stored.length, p.elements);
      const expected = new Float32Array(p.elements);
      for (let row = 0; row < n; row++) {
        for (let c = 0; c < k; c++) expected[(row >> 4) * 16 * k + 16 * c + (row & 15)] = row * k + c + 1;
      }
      assert.deepEqual(stored, expected);
    }),
    { numRuns: 60 },
  );
});

Deno.test("fromStored() inverts toStored() in both layouts", () => {
  fc.assert(
    fc.property(matrices, fc.constantFrom("rows" as const, "panels" as const), ([n, k], layout) => {
      const p = parameter([n, k], layout);
      const values = Float32Array.from({ length: n * k }, (_, i) => Math.sin(i));
      assert.deepEqual(fromStored(p, toStored(p, values)), values);
    }),
    { numRuns: 60 },
  );
});

Deno.test("toStored() and fromStored() refuse a wrong number of values and panels of a vector", () => {
  assert.throws(
    () => toStored(parameter([4, 4], "panels"), new Float32Array(15)),
    /w4x4: 15 values given, 16 expected/,
  );
  assert.throws(
    () => fromStored(parameter([4, 4], "panels"), new Float32Array(16)),
    /16 values given, 64 expected/,
  );
  assert.throws(
    () => toStored({ ...parameter([4], "rows"), layout: "panels" }, new Float32Array(4)),
    /panels need two dims/,
  );
});

Deno.test("initialValues() depend on name, shape and seed only", () => {
  const at = { seed: 1, std: 0.02 };
  const rows = initialValues(parameter([40, 30], "rows"), at),
    panels = initialValues(parameter([40, 30], "panels"), at);
  assert.deepEqual(rows, panels);
  assert.notDeepEqual(rows, initialValues(parameter([40, 30], "rows"), { ...at, seed: 2 }));
  const deviation = Math.sqrt(rows.reduce((sum, v) => sum + v * v, 0) / rows.length);
  assert.ok(Math.abs(deviation - 0.02) < 0.002, `${deviation}`);
  assert.deepEqual([...initialValues(parameter([3], "rows", "ones"), at)], [1, 1, 1]);
  assert.deepEqual([...initialValues(parameter([3], "rows", "zeros"), at)], [0, 0, 0]);
});

Deno.test("savedConfig() names the class for the head and the dtype in the spelling of the original", () => {
  const config = { architectures: ["LlamaForCausalLM"], torch_dtype: "bfloat16", hidden_size: 8 };
  assert.deepEqual(savedConfig({ config, head: "lm", dtype: "F32" }), { ...config, torch_dtype: "float32" });
  const reward = savedConfig({
    config: { architectures: ["Qwen2ForCausalLM"], dtype: "float32" },
    head: "reward",
    dtype: "BF16",
  });
  assert.deepEqual(reward["architectures"], ["Qwen2ForSequenceClassification"]);
  assert.equal(reward["num_labels"], 1);
  assert.equal(reward["dtype"], "bfloat16");
  assert.ok(!("torch_dtype" in reward));
});
