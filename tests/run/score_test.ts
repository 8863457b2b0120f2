import assert from "node:assert/strict";
import {
  afterSizes,
  jsonLines,
  listing,
  metricsOf,
  outcome,
  script,
  succeeds,
  withWorld,
} from "./fixtures.ts";

const deadline = async (world: string, seconds: number) => {
  await Deno.writeTextFile(`${world}/run.yaml`, `score: { deadlineSeconds: ${seconds} }\n`);
  return ["--config", `${world}/run.yaml`];
};

const REFUSED = {
  throws:
    /Cannot score sample \d in score\.rewards: the function threw "no judge for this", mend it \(ppo\.ts:\d+\)\n$/,
  nan:
    /Cannot score sample \d in score\.rewards: the function returned NaN, return a finite number \(ppo\.ts:\d+\)\n$/,
  loops:
    /Cannot score sample \d in score\.rewards: the function took longer than 2 s, raise the deadline \(ppo\.ts:\d+\)\n$/,
  waits:
    /Cannot score sample \d in score\.rewards: the function took longer than 2 s, raise the deadline \(ppo\.ts:\d+\)\n$/,
};

/** Deadlines of those that need one: a busy machine takes its time to import a judge. */
const SECONDS: Readonly<Record<string, number>> = { loops: 2, waits: 2 };

for (const [judge, says] of Object.entries(REFUSED)) {
  Deno.test(`a score function that ${judge} ends the run with its sample, and the steps before it are kept`, async () => {
    await withWorld(async (world) => {
      // The one prompt that is judged badly is the last of the file: it is seen in the second step.
      await jsonLines(
        `${world}/prompts.jsonl`,
        ["two", "three", "four", "one"].map((prompt) => ({ prompt })),
      );
      const args = ["--world", world, "--batch", "3", "--no-shuffle"];
      const more = [...args, "--out", `${world}/out`, ...await deadline(world, SECONDS[judge] ?? 60)];
      const { code, err, seconds } = await script("ppo.ts", [...more, "--steps", "2", "--judge", judge]);
      assert.match(
        afterSizes(err).replace(/^step 1.*\n|^judging.*\n/gm, ""),
        /^Kept after step 1 of 2: add --resume [^\n]+\/out\/checkpoints\/step-000001\nerror: Cannot [^\n]+\n$/,
      );
      assert.match(err, says);
      assert.match(err, /sample [01] /, "the samples of the first prompt of step 2");
      assert.equal(code, 1);
      assert.ok(seconds < 60, `${seconds} s`);
      assert.equal(metricsOf(`${world}/out`).length, 1);
      // With a judge in order the same run goes on.
      await succeeds("ppo.ts", [...more, "--steps", "2", "--resume"]);
      await succeeds("ppo.ts", [...args, "--out", `${world}/whole`, "--steps", "2"]);
      assert.deepEqual(outcome(`${world}/out`), outcome(`${world}/whole`));
    });
  });
}

Deno.test("a score function that is slow for one sample changes nothing", async () => {
  await withWorld(async (world) => {
    const args = ["--world", world, "--steps", "2", "--batch", "8"];
    await succeeds("ppo.ts", [...args, "--out", `${world}/quick`]);
    await succeeds("ppo.ts", [
      ...args,
      "--out",
      `${world}/slow`,
      "--judge",
      "oneSlow",
      ...await deadline(world, 2),
    ]);
    assert.deepEqual(outcome(`${world}/slow`), outcome(`${world}/quick`));
  });
});

const NOTE = "score functions run on the main thread, where only their awaits have a deadline: ";
const WHY = {
  counts: "importing it again builds another call graph",
  exits: "importing it failed: it called Deno.exit(3)",
  hangs: "importing it took longer than 1 s",
  runs:
    "importing it failed: Cannot run effects in a worker, which imports the script for its score functions: " +
    "begin the run under `if (import.meta.main)`",
  hides: "it exports no workflow",
};

Deno.test("a script whose import has effects is scored on the main thread, and one line says why", async () => {
  const outcomes: unknown[] = [];
  for (const effect of ["none", ...Object.keys(WHY)]) {
    await withWorld(async (world) => {
      const args = ["--world", world, "--out", `${world}/out`, ...await deadline(world, 1)];
      const { err } = await succeeds("effects.ts", [...args, "--effect", effect]);
      const note = effect === "none" ? "" : `${NOTE}${WHY[effect as keyof typeof WHY]}\n`;
      assert.ok(afterSizes(err).startsWith(`${note}step 1/1 `), err);
      assert.equal(err.includes(NOTE), effect !== "none");
      outcomes.push(outcome(`${world}/out`));
    });
  }
  for (const other of outcomes) assert.deepEqual(other, outcomes[0]);
});

Deno.test("a worker sees the flags that `baton run` gives the script", async () => {
  await withWorld(async (world) => {
    const cli = new URL("../../cli/main.ts", import.meta.url).pathname,
      ppo = new URL("./scripts/ppo.ts", import.meta.url).pathname;
    const { err, out } = await succeeds(cli, [
      ...["run", ppo, "--json", "--steps", "2", "--out", `${world}/out`],
      ...["--", "--world", world, "--judge", "oneSlow"],
    ], { cwd: world });
    assert.ok(!err.includes("main thread"), err);
    assert.deepEqual(out.trimEnd().split("\n").map((line) => JSON.parse(line).step), [1, 2]);
    assert.ok(`/metrics.jsonl` in listing(`${world}/out`));
  });
});
