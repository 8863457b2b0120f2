import assert from "node:assert/strict";
import { readLog, StepLog, type StepRecord } from "../../engine/metrics.ts";
import { withFolder } from "./shared.ts";

Deno.test("StepLog appends records that are readable at once", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/metrics.jsonl`;
    using log = await StepLog.open<StepRecord>(path);
    await log.write({ step: 1, reward: 0.5 });
    assert.deepEqual(await readLog(path), [{ step: 1, reward: 0.5 }]);
    await log.write({ step: 2, reward: NaN, loss: Infinity });
    await log.flush();
    assert.deepEqual((await readLog<StepRecord>(path))[1], { step: 2, reward: null, loss: null });
  });
});

Deno.test("StepLog resumed after a step drops the lines after it, and a line that a crash cut off", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/metrics.jsonl`;
    {
      using log = await StepLog.open<StepRecord>(path);
      for (const step of [1, 2, 2, 3, 4]) await log.write({ step });
    }
    await Deno.writeTextFile(path, '{"step":5,"rew', { append: true });
    {
      using log = await StepLog.open<StepRecord>(path, { resumeAfter: 2 });
      await log.write({ step: 3, again: 1 });
    }
    assert.deepEqual(await readLog(path), [{ step: 1 }, { step: 2 }, { step: 2 }, { step: 3, again: 1 }]);
    (await StepLog.open<StepRecord>(path))[Symbol.dispose]();
    assert.deepEqual(await readLog(path), []);
  });
});

Deno.test("readLog() finds no records where there is no file, and names a broken line", async () => {
  await withFolder(async (folder) => {
    assert.deepEqual(await readLog(`${folder}/none`), []);
    await Deno.writeTextFile(`${folder}/bad`, '{"step":1}\nnonsense\n');
    await assert.rejects(readLog(`${folder}/bad`), /bad:2: not valid JSON/);
  });
});
