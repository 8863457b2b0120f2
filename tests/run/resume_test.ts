import assert from "node:assert/strict";
import { listing, metricsOf, outcome, ROOT, script, succeeds, withWorld } from "./fixtures.ts";

for (const [name, ...more] of [["ppo.ts"], ["sft.ts"], ["ppo.ts", "--precision", "bf16"]] as const) {
  Deno.test(`run() of ${[name, ...more].join(" ")} makes 10 steps as 5, a stop and 5, bit for bit`, async () => {
    await withWorld(async (world) => {
      const common = ["--world", world, "--quiet", ...more];
      await succeeds(name, [...common, "--steps", "10", "--out", `${world}/whole`]);
      await succeeds(name, [...common, "--steps", "5", "--out", `${world}/parts`]);
      assert.equal(metricsOf(`${world}/parts`).length, 5);
      await succeeds(name, [...common, "--steps", "10", "--out", `${world}/parts`, "--resume"]);
      assert.equal(metricsOf(`${world}/parts`).length, 10);
      assert.deepEqual(outcome(`${world}/parts`), outcome(`${world}/whole`));
    });
  });
}

Deno.test("run() resumes an adaptive KL coefficient where it was", async () => {
  await withWorld(async (world) => {
    const state = (step: number) =>
      JSON.parse(Deno.readTextFileSync(`${world}/out/checkpoints/step-00000${step}/state.json`)).states
        .klCoefficient;
    const common = ["--world", world, "--quiet", "--out", `${world}/out`, "--save-every", "1"];
    await succeeds("ppo.ts", [...common, "--steps", "2"]);
    assert.notEqual(state(2), Math.fround(0.1));
    assert.notEqual(state(2), state(1));
    await succeeds("ppo.ts", [...common, "--steps", "3", "--resume"]);
    // One move changes the coefficient by at most a fiftieth (rate 0.1 × error of at most 0.2).
    assert.ok(Math.abs(state(3) / state(2) - 1) <= 0.0200001, `${state(3)} after ${state(2)}`);
  });
});

Deno.test("run() resumes after its process was killed, and makes the lost steps again", async () => {
  await withWorld(async (world) => {
    // Steps of half a second, so that the signal comes before the end.
    const args = ["--world", world, "--save-every", "2", "--steps", "6", "--epochs", "60"];
    await succeeds("ppo.ts", [...args, "--out", `${world}/whole`]);
    const killed = await script("ppo.ts", [...args, "--out", `${world}/parts`], {
      interrupt: (err) => Number(err.includes("step 3/6")),
      signal: "SIGKILL",
    });
    assert.equal(killed.code, 137);
    assert.ok(metricsOf(`${world}/parts`).length < 6);
    assert.ok(!("/actor/model.safetensors" in listing(`${world}/parts`)));
    await succeeds("ppo.ts", [...args, "--out", `${world}/parts`, "--resume"]);
    assert.deepEqual(outcome(`${world}/parts`), outcome(`${world}/whole`));
  });
});

Deno.test("run() says so when nothing is left to do, and changes nothing but the report", async () => {
  await withWorld(async (world) => {
    const args = ["--world", world, "--out", `${world}/out`];
    await succeeds("sft.ts", [...args, "--steps", "3"]);
    const before = listing(`${world}/out`);
    const { err } = await succeeds("sft.ts", [...args, "--steps", "2", "--resume"]);
    assert.match(err, /^3 steps are done and 2 are asked for: give more with --steps\n/);
    assert.deepEqual({ ...listing(`${world}/out`), "/report.html": "" }, { ...before, "/report.html": "" });
  });
});

Deno.test("steps() lets go of everything when its reader stops early", async () => {
  await withWorld(async (world) => {
    await Deno.writeTextFile(
      `${world}/early.ts`,
      `import { steps } from "file://${ROOT}mod.ts";
       import ppo from "file://${ROOT}tests/run/scripts/ppo.ts";
       for (const out of ["one", "two"]) {
         for await (const { step, metrics } of steps(ppo, { steps: 3, out: "${world}/" + out, quiet: true })) {
           console.log(step, metrics.reward);
           if (step === 2) break;
         }
       }`,
    );
    // The process ends by itself only when no worker, listener or device is left.
    const { out } = await succeeds(`${world}/early.ts`, ["--world", world], {
      deno: ["--config", `${ROOT}deno.json`],
    });
    const lines = out.trimEnd().split("\n");
    assert.equal(lines.length, 4);
    assert.deepEqual(lines.slice(2), lines.slice(0, 2));
    // What it has made is kept all the same.
    await succeeds("ppo.ts", ["--world", world, "--steps", "3", "--out", `${world}/one`, "--resume"]);
    await succeeds("ppo.ts", ["--world", world, "--steps", "3", "--out", `${world}/whole`]);
    assert.deepEqual(outcome(`${world}/one`), outcome(`${world}/whole`));
  });
});
