/** Nothing hangs: a device that dies and a rank that never comes are reported with call, operation and rank, and all others stop. */
import assert from "node:assert/strict";
import { type Device, NativeError } from "../../ffi/device.ts";
import { emptyBatch, type Opened, openPpo, planOf, ppoWorkflow } from "./ppo.ts";

/** Training and generation over all of four devices, by tensor parallelism and pipeline, so that every rank waits for others. */
const WIDE = planOf(4, {
  "actor.generate": { devices: "0-3", tp: 2, pp: 2 },
  "ref.infer": { devices: "0-3", dp: 2, tp: 2 },
  "critic.infer": { devices: "0-3", dp: 4 },
  "actor.train": { devices: "0-3", dp: 2, tp: 2 },
  "critic.train": { devices: "0-3", tp: 2, pp: 2 },
});

/** Runs a step in which something happens when a call begins, and waits for its end for at most `seconds`. */
async function failing(
  when: string,
  deadlineSeconds: number,
  happen: (opened: Opened) => void,
  overlap?: { readonly bytes: number },
): Promise<Error> {
  const opened = await openPpo(ppoWorkflow(), WIDE, { deadlineSeconds, ...overlap && { overlap } });
  const { stage, close } = opened;
  let done = false;
  const never = Promise.withResolvers<never>(),
    timer = setTimeout(() => never.reject(new Error("it hangs")), 30_000);
  try {
    const run = stage.step(0, emptyBatch(), {
      onPhase(call) {
        if (done || call !== when) return;
        done = true;
        happen(opened);
      },
    });
    return await Promise.race([run, never.promise]).then(
      () => new Error("the step went through"),
      (error: Error) => error,
    );
  } finally {
    clearTimeout(timer);
    close();
  }
}

for (const call of ["actor.generate", "ref.infer", "actor.train", "critic.train"]) {
  Deno.test(`a device that dies in ${call} ends the step with its name`, async () => {
    const error = await failing(call, 60, ({ devices }) => queueMicrotask(() => devices.all[3]!.close()));
    assert.match(error.message, new RegExp(`^Cannot run ${call.replace(".", "\\.")}: `));
    assert.match(error.message, /device 3|rank 1|closed/);
  });

  Deno.test(`a rank that never comes to ${call} is named at the deadline`, async () => {
    const error = await failing(call, 0.5, ({ devices }) => silence(devices.all[1]!));
    assert.ok(error instanceof NativeError, String(error));
    assert.match(
      error.message,
      new RegExp(
        `^Cannot run ${
          call.replace(".", "\\.")
        }: .*operation \\d+ \\(\\w+\\): rank \\d of \\d did not arrive within`,
      ),
    );
  });
}

Deno.test("a device that dies where gradients are summed beside the backward pass ends the step with its name", async () => {
  const close = ({ devices }: Opened) => queueMicrotask(() => devices.all[3]!.close());
  const error = await failing("actor.train", 60, close, { bytes: 4000 });
  assert.match(error.message, /^Cannot run actor\.train: .*(device 3|rank 1|closed)/);
  const silent = ({ devices }: Opened) => silence(devices.all[1]!);
  const absent = await failing("actor.train", 0.5, silent, { bytes: 4000 });
  assert.match(absent.message, /^Cannot run actor\.train: .*rank \d of \d did not arrive within/);
});

/** From now on the device is given nothing, and says that it did it. */
function silence(device: Device): void {
  const job = { ticket: 0, done: Promise.resolve({ begin: 0, end: 0 }) };
  Object.assign(device, { submit: () => job });
}

Deno.test("after a failed step the same devices run the next one", async () => {
  const opened = await openPpo(ppoWorkflow(), WIDE, { deadlineSeconds: 60 }), { stage, close } = opened;
  try {
    const stop = new AbortController();
    const first = stage.step(0, emptyBatch(), {
      signal: stop.signal,
      onPhase: (call, done) => call === "actor.generate" && done > 4 && stop.abort(new Error("enough")),
    });
    await assert.rejects(first, /^Error: enough$/);
    const { metrics } = await stage.step(0, emptyBatch());
    assert.ok(Number.isFinite(metrics["actor/loss"]));
  } finally {
    close();
  }
});
