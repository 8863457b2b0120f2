/** How weights of a run lie: on the CPU in panels, on GPUs in rows. */
import assert from "node:assert/strict";
import { SINGLE, storedIn } from "../../compiler/models/storage.ts";
import { parameters } from "../../compiler/models/transformer.ts";
import { onGpus } from "../../run/machine.ts";
import { stored } from "../../run/models.ts";
import { layoutOf } from "../../run/planning.ts";
import { readProfile } from "../../run/cluster.ts";
import { tiny } from "./compiler_fixtures.ts";

const AVERAGE = { of: "actor", eta: 0.99 } as const;

Deno.test("what models are stored in says how weights lie, for averages of weights too", () => {
  assert.deepEqual(stored({}, SINGLE), {});
  assert.deepEqual(stored({ ema: AVERAGE }, storedIn("bf16")), {});
  const single = { storage: { ...SINGLE, layout: "rows" } };
  assert.deepEqual(stored({}, storedIn("fp32", "fp32", "rows")), single);
  assert.deepEqual(stored({ ema: AVERAGE }, storedIn("bf16", "bf16", "rows")), single);
  const half = storedIn("bf16", "fp32", "rows");
  assert.deepEqual(stored({}, half), { storage: half });
});

Deno.test("plans for GPUs count weights in rows, which have no padding", async () => {
  for (const [name, layout] of [["h100", "rows"], ["a100", "rows"], ["cpu", "panels"]] as const) {
    assert.equal(layoutOf(await readProfile(name, "the test")), layout);
  }
  assert.ok(onGpus({ gpus: [0] }) && !onGpus({}));
  const elements = (layout: "rows" | "panels", head: "lm" | "value") => {
    const config = { ...tiny({ intermediate_size: 52 }), storage: { ...SINGLE, layout } };
    return parameters(config, head).reduce((n, p) => n + p.elements, 0);
  };
  // Gate and up of two layers are rounded up from 52 to 64 outputs of 32 inputs, a head of 100 tokens to 112, one of one value to 16.
  assert.equal(elements("panels", "lm") - elements("rows", "lm"), 2 * 2 * 12 * 32 + 12 * 32);
  assert.equal(elements("panels", "value") - elements("rows", "value"), 2 * 2 * 12 * 32 + 15 * 32);
});
