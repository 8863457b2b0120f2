import assert from "node:assert/strict";
import {
  listing,
  metricsOf,
  outcome,
  ROOT,
  script,
  SCRIPTS,
  succeeds,
  tinyModel,
  withWorld,
} from "./fixtures.ts";

/** Seconds from a Ctrl-C to the end of the process. */
const SOON = 2;
const checkpoints = (out: string) =>
  Object.keys(listing(`${out}/checkpoints`)).filter((path) => /^\/step-\d+\/$/.test(path));
const times = (text: string, pattern: RegExp) => text.match(new RegExp(pattern, "g"))?.length ?? 0;

/** Steps whose rollout is nearly all of their time, and steps that nearly only train. */
const KINDS = {
  rollout: ["--max-new", "1500", "--ignore-eos", "--samples", "1", "--batch", "2"],
  training: ["--epochs", "400"],
} as const;

async function withLongWorld(fn: (world: string) => Promise<void>): Promise<void> {
  await withWorld(async (world) => {
    await tinyModel(`${world}/policy`, { config: { max_position_embeddings: 2048 } });
    await fn(world);
  });
}

Deno.test("the first Ctrl-C cancels a rollout, and the resumed run is as if nothing had been", async () => {
  await withLongWorld(async (world) => {
    const args = ["--world", world, "--steps", "3", ...KINDS.rollout];
    await succeeds("ppo.ts", [...args, "--out", `${world}/whole`]);
    const { code, err, seconds } = await script("ppo.ts", [...args, "--out", `${world}/parts`], {
      interrupt: (err) => times(err, /step 1\/3/),
    });
    assert.match(
      err,
      /Stopping: the rollout is cancelled and a checkpoint is written\. Press Ctrl-C again to stop at once\.\n/,
    );
    assert.match(
      err,
      /Stopped after step 1 of 3: add --resume to the same command to go on from \S+\/parts\/checkpoints\/step-000001\n$/,
    );
    assert.equal(code, 130);
    assert.ok(seconds < SOON, `${seconds} s`);
    assert.equal(metricsOf(`${world}/parts`).length, 1);
    await succeeds("ppo.ts", [...args, "--out", `${world}/parts`, "--resume"]);
    assert.deepEqual(outcome(`${world}/parts`), outcome(`${world}/whole`));
  });
});

Deno.test("the first Ctrl-C lets running train calls finish, and the resumed run is as if nothing had been", async () => {
  await withWorld(async (world) => {
    const args = ["--world", world, "--steps", "3", ...KINDS.training, "--evaluate"];
    await succeeds("ppo.ts", [...args, "--out", `${world}/whole`]);
    const { code, err, seconds } = await script("ppo.ts", [...args, "--out", `${world}/parts`], {
      interrupt: (err) => times(err, /step 1\/3/),
      delay: 100,
    });
    assert.match(
      err,
      /Stopping: the running train calls finish first, about \d+\.\d s, then a checkpoint is written\./,
    );
    assert.match(err, /Stopped after step 2 of 3: add --resume/);
    assert.equal(code, 130);
    assert.ok(seconds < SOON, `${seconds} s`);
    await succeeds("ppo.ts", [...args, "--out", `${world}/parts`, "--resume"]);
    assert.deepEqual(outcome(`${world}/parts`), outcome(`${world}/whole`));
  });
});

Deno.test("the second Ctrl-C ends the run at once with the last checkpoint intact", async () => {
  await withWorld(async (world) => {
    const args = ["--world", world, "--save-every", "1", ...KINDS.training];
    await succeeds("ppo.ts", [...args, "--steps", "1", "--out", `${world}/whole`]);
    const { code, err, seconds } = await script("ppo.ts", [
      ...args,
      "--steps",
      "3",
      "--out",
      `${world}/parts`,
    ], {
      interrupt: (err) => times(err, /step 1\/3|Stopping: the running train calls/),
      delay: 100,
    });
    assert.match(err, /Stopped at once; the last checkpoint is intact\.\n$/);
    assert.equal(code, 130);
    assert.ok(seconds < SOON, `${seconds} s`);
    assert.deepEqual(listing(`${world}/parts/checkpoints`), listing(`${world}/whole/checkpoints`));
  });
});

Deno.test("Ctrl-C does not wait for a score function, and before the first step leaves a checkpoint of step 0", async () => {
  await withWorld(async (world) => {
    const args = ["--world", world, "--steps", "2", "--out", `${world}/out`];
    const { code, err, seconds } = await script("ppo.ts", [...args, "--judge", "loops"], {
      interrupt: (err) => times(err, /judging one/),
    });
    assert.match(err, /Stopped after step 0 of 2/);
    assert.equal(code, 130);
    assert.ok(seconds < SOON, `${seconds} s`);
    assert.deepEqual(checkpoints(`${world}/out`), ["/step-000000/"]);
    await succeeds("ppo.ts", [...args, "--resume"]);
    await succeeds("ppo.ts", ["--world", world, "--steps", "2", "--out", `${world}/whole`]);
    assert.deepEqual(outcome(`${world}/out`), outcome(`${world}/whole`));
  });
});

Deno.test("Ctrl-C ends `baton run` with the same code, and --resume goes on", async () => {
  await withWorld(async (world) => {
    const own = ["--", "--world", world, ...KINDS.training];
    const common = ["run", `${SCRIPTS}ppo.ts`, "--steps", "2", "--out", `${world}/out`];
    const { code, err } = await script(`${ROOT}cli/main.ts`, [...common, ...own], {
      interrupt: (err) => times(err, /step 1\/2/),
      delay: 50,
    });
    assert.match(err, /Stopped after step [12] of 2: add --resume/);
    assert.equal(code, 130);
    await succeeds(`${ROOT}cli/main.ts`, [...common, "--resume", ...own]);
    assert.ok("/actor/model.safetensors" in listing(`${world}/out`));
  });
});
