/** What a compute call is given, without a device. */
import assert from "node:assert/strict";
import { Batch } from "../../engine/batch.ts";
import type { Binding } from "../../engine/binding.ts";
import { compute } from "../../engine/compute.ts";
import type { ComputeCall } from "../../ir/graph.ts";
import { whiten } from "../../mod.ts";

/** A step of so many actions, whose tokens nobody looks at. */
function batchOf(actions: number): Batch {
  const batch = new Batch(1, 1, [{ index: 0, fields: {} }]);
  const column = { temperature: 1, versions: [0], ids: [new Int32Array(0)] };
  batch.tokens.set("tokens", { ...column, actions: [{ length: actions } as Int32Array] });
  return batch;
}
const binding = {
  program: { ports: {} },
  offer() {},
  run: () => Promise.resolve(),
} as unknown as Binding;
const call = { id: "whiten", ...whiten().drafts[0]!.call } as ComputeCall;

Deno.test("a step with more actions than one float32 chain can sum is refused, not whitened wrongly", async () => {
  const most = 2 ** 24;
  assert.deepEqual(await compute(binding, call, batchOf(most), new Map()), {});
  await assert.rejects(
    compute(binding, call, batchOf(most + 1), new Map()),
    /^RangeError: Cannot run whiten: it sums over the step's 16777217 actions and float32 counts to 16777216, /,
  );
  const spread: ComputeCall = {
    ...call,
    expr: { ops: [{ op: "const", value: 1, per: "batch" }], outputs: {} },
  };
  assert.deepEqual(await compute(binding, spread, batchOf(most + 1), new Map()), {});
});
