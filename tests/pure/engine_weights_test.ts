import assert from "node:assert/strict";
import { initialValues, savedConfig } from "../../engine/weights.ts";
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
  dtype: "f32",
  gradient: "f32",
  init,
  offset: 0,
  elements: layout === "panels" ? panelElements(shape[0]!, shape[1]!) : shape.reduce((n, d) => n * d, 1),
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
