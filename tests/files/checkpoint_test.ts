import assert from "node:assert/strict";
import {
  beginCheckpoint,
  claimRunFolder,
  keepLast,
  latestCheckpoint,
  listCheckpoints,
  loadTensors,
  readState,
  saveTensors,
  writeState,
} from "../../engine/checkpoint.ts";
import { withFolder } from "./shared.ts";

async function publish(folder: string, step: number, value = step): Promise<string> {
  const checkpoint = await beginCheckpoint(folder, step);
  await saveTensors(`${checkpoint.path}/w.safetensors`, [{
    name: "w",
    shape: [2],
    read: () => Float32Array.of(value, 1),
  }]);
  await writeState(checkpoint.path, { version: 1, step, value } as { version: number });
  return await checkpoint.commit();
}
const names = (folder: string) => [...Deno.readDirSync(folder)].map((entry) => entry.name).sort();

Deno.test("a checkpoint gives back its state and tensors", async () => {
  await withFolder(async (folder) => {
    const path = await publish(folder, 12);
    assert.equal(path, `${folder}/step-000012`);
    assert.deepEqual(await readState(path), { version: 1, step: 12, value: 12 });
    const expected = [{ name: "w", shape: [2] }];
    const got: number[] = [];
    await loadTensors(`${path}/w.safetensors`, expected, (_, values) => void got.push(...values));
    assert.deepEqual(got, [12, 1]);
    await assert.rejects(
      loadTensors(
        `${path}/w.safetensors`,
        [{ name: "w", shape: [1, 2] }, { name: "v", shape: [1] }],
        () => {},
      ),
      /w has shape \[2\] instead of \[1, 2\]; v \[1\] is missing/,
    );
    assert.equal((await Deno.readTextFile(`${folder}/latest`)).trim(), "step-000012");
  });
});

Deno.test("latestCheckpoint() chooses the newest published one, whatever the pointer says", async () => {
  await withFolder(async (folder) => {
    assert.equal(await latestCheckpoint(`${folder}/none`), null);
    assert.equal(await latestCheckpoint(folder), null);
    for (const step of [9, 100, 20]) await publish(folder, step);
    await Deno.writeTextFile(`${folder}/latest`, "step-000009\n");
    // An interrupted write, a folder without state, and something else altogether.
    await beginCheckpoint(folder, 200);
    await Deno.mkdir(`${folder}/step-000300`);
    await Deno.writeTextFile(`${folder}/step-000400`, "");
    assert.deepEqual((await listCheckpoints(folder)).map((c) => c.step), [9, 20, 100]);
    assert.equal((await latestCheckpoint(folder))?.step, 100);
  });
});

Deno.test("a checkpoint appears only when it is committed, and replaces one of the same step", async () => {
  await withFolder(async (folder) => {
    await publish(folder, 5, 1);
    const again = await beginCheckpoint(folder, 5);
    await assert.rejects(again.commit(), /Cannot publish checkpoint .*no state was written/);
    assert.deepEqual(await readState(`${folder}/step-000005`), { version: 1, step: 5, value: 1 });
    await publish(folder, 5, 2);
    assert.deepEqual(await readState(`${folder}/step-000005`), { version: 1, step: 5, value: 2 });
    assert.deepEqual(names(folder), ["latest", "step-000005"]);
  });
});

Deno.test("keepLast() keeps the newest and clears what interrupted writes left", async () => {
  await withFolder(async (folder) => {
    for (const step of [1, 2, 10]) await publish(folder, step);
    await beginCheckpoint(folder, 11);
    await keepLast(folder, 2);
    assert.deepEqual(names(folder), ["latest", "step-000002", "step-000010"]);
    await assert.rejects(keepLast(folder, 0), RangeError);
  });
});

Deno.test("writeState() refuses numbers that JSON cannot hold, and readState() other versions", async () => {
  await withFolder(async (folder) => {
    await assert.rejects(
      writeState(folder, { version: 1, states: { beta: NaN } } as { version: number }),
      /Cannot write .*state\.json: beta is NaN/,
    );
    await Deno.writeTextFile(`${folder}/state.json`, '{"version":2}');
    await assert.rejects(readState(folder), /has version 2, this Baton reads version 1/);
    await Deno.remove(`${folder}/state.json`);
    await assert.rejects(readState(folder), /Cannot read checkpoint .*there is no file/);
  });
});

Deno.test("a checkpoint that cannot be finished is discarded, and the others stay", async () => {
  await withFolder(async (folder) => {
    await publish(folder, 1);
    const checkpoint = await beginCheckpoint(folder, 2);
    await Deno.writeTextFile(`${checkpoint.path}/half.safetensors`, "half");
    await checkpoint.discard();
    assert.deepEqual(names(folder), ["latest", "step-000001"]);
    await checkpoint.discard();
  });
});

Deno.test("claimRunFolder() keeps runs apart", async () => {
  await withFolder(async (folder) => {
    const run = { name: "ppo", graph: "abc", seed: 1 };
    await assert.rejects(
      claimRunFolder(`${folder}/a`, run, { resume: true }),
      /Cannot resume in .*it has no run\.json/,
    );
    await claimRunFolder(`${folder}/a`, run);
    await assert.rejects(claimRunFolder(`${folder}/a`, run), /run "ppo" is there, continue it with --resume/);
    await claimRunFolder(`${folder}/a`, { ...run, name: "renamed" }, { resume: true });
    await assert.rejects(
      claimRunFolder(`${folder}/a`, { ...run, graph: "abd", seed: 2 }, { resume: true }),
      /its graph is abc and this run's is abd, its seed is 1 and this run's is 2/,
    );
    await Deno.mkdir(`${folder}/b`);
    await claimRunFolder(`${folder}/b`, run);
    await Deno.mkdir(`${folder}/c`);
    await Deno.writeTextFile(`${folder}/c/thesis.txt`, "");
    await assert.rejects(claimRunFolder(`${folder}/c`, run), /Cannot start a run in .*it holds thesis\.txt/);
  });
});
