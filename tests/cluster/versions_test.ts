/** Version-typed memory: replicas, caches and samples carry the version of their weights, and what was corrupted is refused. */
import assert from "node:assert/strict";
import type { Engine } from "../../engine/engine.ts";
import type { Batch } from "../../engine/batch.ts";
import { emptyBatch, type Opened, openPpo, planOf, ppoWorkflow } from "./ppo.ts";

/** Generation on devices of its own, so that its weights are a copy. */
const APART_ROWS = {
  "actor.generate": { devices: "2-3", dp: 2 },
  "ref.infer": { devices: "0" },
  "critic.infer": { devices: "1" },
  "actor.train": { devices: "0" },
  "critic.train": { devices: "1" },
};
const APART = planOf(4, APART_ROWS);

/** A step in which `corrupt` is called when a call begins, or goes on. */
async function corrupted(
  when: string,
  corrupt: (engine: Engine, batch: Batch) => void,
  begins = true,
): Promise<void> {
  const { stage, close } = await openPpo(ppoWorkflow(), APART), batch = emptyBatch();
  let done = false;
  try {
    await stage.step(0, batch, {
      onPhase(call, tokens) {
        if (done || call !== when || (begins ? tokens > 0 : tokens === 0)) return;
        done = true;
        corrupt(stage.engine, batch);
      },
    });
  } finally {
    close();
  }
}

Deno.test("a step whose memory is sound goes through", async () => {
  await corrupted("actor.generate", () => {});
});

Deno.test("generation refuses a copy that missed an update", async () => {
  await assert.rejects(
    corrupted("actor.generate", (engine) => void (engine.home("actor").version = 1)),
    /^Error: Cannot run actor\.generate: actor@1 holds version 0 of actor and the newest is 1, bring it up to date/,
  );
});

Deno.test("generation refuses a copy that holds no weights", async () => {
  await assert.rejects(
    corrupted("actor.generate", (engine) => void (engine.replica("actor@1").version = null)),
    /^Error: Cannot run actor\.generate: actor@1 holds no weights/,
  );
});

Deno.test("generation does not go on with a cache of other weights", async () => {
  await assert.rejects(
    corrupted("actor.generate", (engine) => void engine.replica("actor@1").version!++, false),
    /^Error: Cannot go on in actor\.generate: its cache was made by version 0 of actor and actor@1 holds version 1/,
  );
});

Deno.test("calls refuse samples of weights that are too old, and of weights that never were", async () => {
  const sample = (version: number) => (_: Engine, batch: Batch) =>
    void ((batch.tokensOf("tokens").versions as number[])[3] = version);
  await assert.rejects(
    corrupted("ref.infer", sample(-2)),
    /^Error: Cannot run ref\.infer: sample 3 was made by version -2 of actor and this step began with version 0/,
  );
  await assert.rejects(
    corrupted("actor.train", sample(7)),
    /^Error: Cannot run actor\.train: sample 3 was made by version 7/,
  );
});

/** Steps of a run that looks ahead, as `run` does. */
async function ahead(opened: Opened, steps: number): Promise<Batch[]> {
  const { stage } = opened, batches: Batch[] = [];
  let next = stage.begin(0, emptyBatch());
  for (let step = 0; step < steps; step++) {
    const now = next;
    now.release({});
    if (step + 1 < steps) next = stage.begin(step + 1, emptyBatch());
    await now.done;
    batches.push(now.batch);
  }
  return batches;
}

Deno.test("without lag the next step's generation waits for the actor's update, and samples nothing else", async () => {
  const plain = await openPpo(ppoWorkflow(), APART), looking = await openPpo(ppoWorkflow(), APART);
  try {
    const batches = await ahead(looking, 4);
    for (const [step, batch] of batches.entries()) {
      const expected = emptyBatch();
      await plain.stage.step(step, expected);
      assert.deepEqual(batch.tokensOf("tokens"), expected.tokensOf("tokens"));
      assert.deepEqual([...new Set(batch.tokensOf("tokens").versions)], [step]);
    }
  } finally {
    plain.close();
    looking.close();
  }
});

Deno.test("with a lag of one, generation does not wait for the update before it, and samples say which weights made them", async () => {
  const opened = await openPpo(ppoWorkflow(1), APART), { step } = opened.stage.input.schedule;
  try {
    const generate = step.find((i) => i.op === "run" && i.call === "actor.generate")!;
    const train = step.findIndex((i) => i.op === "run" && i.call === "actor.train");
    const waits = (at: number): boolean => at === train || step[at]!.after.some(waits);
    assert.ok(!generate.afterPrevious.some(waits), "it waits for the step before to have trained");
    const batches = await ahead(opened, 6);
    const versions = batches.map((b) => [...new Set(b.tokensOf("tokens").versions)]);
    assert.deepEqual(versions, [[0], [0], [1], [2], [3], [4]]);
    assert.deepEqual(batches.map((b) => [...new Set(b.numbersOf("lag").values as Float32Array)]), [
      [0],
      [1],
      [1],
      [1],
      [1],
      [1],
    ]);
  } finally {
    opened.close();
  }
});

/** Generation that lags, with the actor's weights in host memory between steps or not. */
const lagging = (offload: boolean) => planOf(4, { ...APART_ROWS, "actor.train": { devices: "0", offload } });

Deno.test("generation that lags begins with the weights of an offloaded model", async () => {
  const [resident, offloaded] = await Promise.all([false, true].map(async (offload) => {
    const opened = await openPpo(ppoWorkflow(1), lagging(offload));
    try {
      return (await ahead(opened, 3)).map((b) => b.tokensOf("tokens"));
    } finally {
      opened.close();
    }
  }));
  assert.deepEqual(offloaded, resident);
});

Deno.test("a step that is given up before it trains leaves the weights of lagging generation as they were", async () => {
  const { stage, close } = await openPpo(ppoWorkflow(1), lagging(false)), stop = new AbortController();
  try {
    await stage.step(0, emptyBatch());
    const copy = stage.engine.replica("actor@1"), before = copy.version;
    const given = stage.step(1, emptyBatch(), {
      signal: stop.signal,
      onPhase: (call) => void (call === "critic.infer" && stop.abort(new Error("enough"))),
    });
    await assert.rejects(given, /^Error: enough$/);
    assert.equal(copy.version, before);
  } finally {
    close();
  }
});

Deno.test("an abort that comes when all is done stops nothing", async () => {
  const { stage, close } = await openPpo(ppoWorkflow(), APART), stop = new AbortController();
  try {
    const last = stage.input.graph.calls.at(-1)!, { run } = stage.calls;
    stage.calls.run = async (call, context) => {
      const said = await run.call(stage.calls, call, context);
      if (call.id === last.id) stop.abort(new Error("too late"));
      return said;
    };
    const first = await stage.step(0, emptyBatch(), { signal: stop.signal }).catch(() => null);
    stage.calls.run = run;
    const { flops } = await stage.step(1, emptyBatch());
    assert.ok(flops > 0 && (first === null || first.flops > 0));
  } finally {
    close();
  }
});

Deno.test("operations of a step are its own, whatever else runs meanwhile", async () => {
  const plain = await openPpo(ppoWorkflow(), APART), looking = await openPpo(ppoWorkflow(), APART);
  try {
    const alone = [await plain.stage.step(0, emptyBatch()), await plain.stage.step(1, emptyBatch())];
    const first = looking.stage.begin(0, emptyBatch());
    first.release({});
    const second = looking.stage.begin(1, emptyBatch());
    const results = [await first.done];
    second.release({});
    results.push(await second.done);
    assert.deepEqual(results.map((r) => r.flops), alone.map((r) => r.flops));
  } finally {
    plain.close();
    looking.close();
  }
});

Deno.test("a step that was begun ahead and is not wanted ends, and leaves the devices to the next one", async () => {
  const { stage, close } = await openPpo(ppoWorkflow(), APART);
  try {
    const first = stage.begin(0, emptyBatch()), stop = new AbortController();
    first.release({});
    const second = stage.begin(1, emptyBatch(), { signal: stop.signal });
    await first.done;
    stop.abort(new Error("not wanted"));
    await assert.rejects(second.done, /^Error: not wanted$/);
    const expected = emptyBatch(), again = await openPpo(ppoWorkflow(), APART);
    try {
      await again.stage.step(0, emptyBatch());
      await again.stage.step(1, expected);
    } finally {
      again.close();
    }
    const batch = emptyBatch();
    await stage.step(1, batch);
    assert.deepEqual(batch.tokensOf("tokens"), expected.tokensOf("tokens"));
  } finally {
    close();
  }
});

Deno.test("calls on disjoint meshes run at the same time", async () => {
  const { stage, close } = await openPpo(ppoWorkflow(), APART),
    running = new Set<string>(),
    together = new Set<string>();
  const { run } = stage.calls;
  stage.calls.run = async (call, context) => {
    running.add(call.id);
    for (const other of running) if (other < call.id) together.add(`${other} ${call.id}`);
    for (const other of running) if (other > call.id) together.add(`${call.id} ${other}`);
    try {
      return await run.call(stage.calls, call, context);
    } finally {
      running.delete(call.id);
    }
  };
  try {
    await stage.step(0, emptyBatch());
    assert.ok(together.has("actor.train critic.train"), [...together].join());
    assert.ok(together.has("critic.infer ref.infer"), [...together].join());
  } finally {
    close();
  }
});
