/** Steps that overlap, over calls that end when the test says so. */
import assert from "node:assert/strict";
import { batchOf } from "../../engine/batch.ts";
import type { Calls, StageInput, StepContext } from "../../engine/calls.ts";
import type { Engine } from "../../engine/engine.ts";
import { Execution } from "../../engine/execution.ts";
import { NativeError } from "../../ffi/device.ts";
import { STATUS } from "../../ffi/symbols.ts";
import type { Call } from "../../ir/graph.ts";
import type { Instruction } from "../../ir/plan.ts";

const GENERATE = "actor.generate", TRAIN = "critic.train";

/** Generation on one device and training on another: the next step's generation runs beside this one's training. */
function overlapping(run: (call: string, step: number, cancelled: Promise<void>) => Promise<void>) {
  const cancel = Promise.withResolvers<void>();
  const calls = [
    { id: GENERATE, kind: "generate", model: "actor", reads: { prompt: "prompt" }, writes: {} },
    { id: TRAIN, kind: "train", model: "critic", reads: {}, writes: {} },
  ] as unknown as Call[];
  const step = calls.map(({ id }, i): Instruction => ({
    op: "run",
    call: id,
    replica: null,
    devices: [i],
    after: i ? [0] : [],
    afterPrevious: [i],
  }));
  const engine = {
    homes: new Map(),
    states: new Map(),
    devices: { cancel: (on: boolean) => on && cancel.resolve() },
  } as unknown as Engine;
  const bound = {
    flopsOf: () => 0,
    run: (call: Call, { step }: StepContext) => run(call.id, step, cancel.promise),
  } as unknown as Calls;
  const graph = {
    name: "test",
    calls,
    fields: {},
    models: { critic: { head: "reward" } },
    states: {},
    source: { fields: {} },
  };
  const input = { graph, schedule: { step, replicas: {}, prologue: [] } } as unknown as StageInput;
  const batch = () => batchOf([{ index: 0, prompt: { ids: Int32Array.of(1), text: "a" }, fields: {} }], 1);
  return (number: number, previous: Execution | null) =>
    new Execution(engine, bound, input, new Set([0]), number, batch(), previous);
}

Deno.test("what fails in a step that was begun ahead is what the step before it reports, not that it was cancelled", async () => {
  const steps = overlapping(async (call, step, cancelled) => {
    if (call === GENERATE && step === 1) throw new RangeError("Cannot generate: the prompt is too long");
    if (call !== TRAIN) return;
    await cancelled;
    throw new NativeError("Cannot run critic.train: it was cancelled", STATUS.CANCELLED);
  });
  const first = steps(0, null), running = first.run({});
  first.release({});
  const ahead = steps(1, first).run({});
  ahead.catch(() => {}); // seen below
  await assert.rejects(running, /^RangeError: Cannot generate: the prompt is too long$/);
  await assert.rejects(ahead, /^RangeError: Cannot generate: the prompt is too long$/);
});

Deno.test("a step that was begun ahead and is taken back leaves the one before it alone", async () => {
  const never = Promise.withResolvers<void>();
  const steps = overlapping(async (call, step, cancelled) => {
    if (call !== GENERATE || step !== 1) return;
    await Promise.race([cancelled, never.promise]);
    throw new NativeError("Cannot run actor.generate: it was cancelled", STATUS.CANCELLED);
  });
  const first = steps(0, null), running = first.run({}), stop = new AbortController();
  first.release({});
  const second = steps(1, first), ahead = second.run({ signal: stop.signal });
  assert.ok((await running).seconds[TRAIN]! >= 0);
  stop.abort(new Error("not wanted"));
  await assert.rejects(ahead, /^Error: not wanted$/);
});
