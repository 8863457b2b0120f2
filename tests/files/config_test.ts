import assert from "node:assert/strict";
import { loadConfig } from "../../engine/config.ts";
import { withFolder } from "./shared.ts";

Deno.test("loadConfig() reads a file and names it in errors", async () => {
  await withFolder(async (folder) => {
    const path = `${folder}/run.yaml`;
    await Deno.writeTextFile(path, "run: { steps: 3, out: runs/x }\nthreads: 2\n");
    const config = await loadConfig(path);
    assert.deepEqual([config.run.steps, config.run.out, config.threads, config.run.saveEvery], [
      3,
      "runs/x",
      2,
      50,
    ]);
    await Deno.writeTextFile(path, "run: [");
    await assert.rejects(loadConfig(path), /Cannot use .*run\.yaml: Cannot parse YAML: line 1/);
    await assert.rejects(loadConfig(`${folder}/none.yaml`), /there is no file .*none\.yaml/);
    assert.equal((await loadConfig()).run.seed, 1);
  });
});
