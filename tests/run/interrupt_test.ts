import assert from "node:assert/strict";
import {
  listing,
  metricsOf,
  outcome,
  readLines,
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
    // Long training, so that both signals come in it whatever else the machine does.
    const args = ["--world", world, "--save-every", "1", "--epochs", "1000"];
    await succeeds("ppo.ts", [...args, "--steps", "1", "--out", `${world}/whole`]);
    const { code, err, seconds } = await script("ppo.ts", [
      ...args,
      "--steps",
      "3",
      "--out",
      `${world}/parts`,
    ], {
      interrupt: (err) => times(err, /step 2\/3|Stopping: the running train calls/),
      delay: 300,
    });
    assert.match(err, /Stopped at once; the last checkpoint is intact\.\n$/);
    assert.equal(code, 130);
    assert.ok(seconds < SOON, `${seconds} s`);
    // That of step 2 may be half written, beside the others, when the signals come.
    const first = (out: string) =>
      Object.entries(listing(`${out}/checkpoints`)).filter(([path]) => path.startsWith("/step-000001/"));
    assert.ok(first(`${world}/whole`).length > 1);
    assert.deepEqual(first(`${world}/parts`), first(`${world}/whole`));
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

Deno.test("Ctrl-C in the last evaluation ends the run as stopped, and the resumed one evaluates and exports", async () => {
  await withLongWorld(async (world) => {
    const args = ["--world", world, "--steps", "1", ...KINDS.rollout, "--evaluate"], out = `${world}/parts`;
    await succeeds("ppo.ts", [...args, "--out", `${world}/whole`]);
    const { code, err } = await script("ppo.ts", [...args, "--out", out], {
      interrupt: (err) => times(err, /step 1\/1/),
      delay: 50,
    });
    assert.match(err, /Stopped after step 1 of 1: add --resume/);
    assert.equal(code, 130);
    const whens = (out: string) => readLines(`${out}/evaluations.jsonl`).map((line) => line.when);
    assert.deepEqual(whens(out), ["before"]);
    assert.ok(!("/actor/model.safetensors" in listing(out)));
    await succeeds("ppo.ts", [...args, "--out", out, "--resume"]);
    assert.deepEqual(whens(out), ["before", "after"]);
    assert.deepEqual(readLines(`${out}/evaluations.jsonl`), readLines(`${world}/whole/evaluations.jsonl`));
    assert.deepEqual(outcome(out), outcome(`${world}/whole`));
  });
});

Deno.test("Ctrl-C when the last step is done stops nothing but says what is going on", async () => {
  await withWorld(async (world) => {
    await Deno.writeTextFile(
      `${world}/ended.ts`,
      `import { Interruption } from "file://${ROOT}run/interruption.ts";
       const said = Promise.withResolvers();
       const interruption = new Interruption({ note: said.resolve, secondsLeft: () => 0, leave() {} });
       const { signal } = interruption.hooks({}), ended = interruption.end();
       Deno.kill(Deno.pid, "SIGINT");
       console.log(JSON.stringify([await said.promise, ended, signal.aborted]));
       interruption.dispose();`,
    );
    const { out } = await succeeds(`${world}/ended.ts`, []);
    const line = "The last step is done: files are written. Press Ctrl-C again to stop at once.";
    assert.deepEqual(JSON.parse(out), [line, false, false]);
  });
});
