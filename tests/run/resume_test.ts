import assert from "node:assert/strict";
import { metricsOf, outcome, succeeds, withWorld } from "./fixtures.ts";

for (const name of ["ppo.ts", "sft.ts"]) {
  Deno.test(`run() of ${name} makes 10 steps as 5, a stop and 5, bit for bit`, async () => {
    await withWorld(async (world) => {
      const common = ["--world", world, "--quiet"];
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
      JSON.parse(Deno.readTextFileSync(`${world}/out/checkpoints/step-00000${step}/state.json`)).states.klCoefficient;
    const common = ["--world", world, "--quiet", "--out", `${world}/out`, "--save-every", "1"];
    await succeeds("ppo.ts", [...common, "--steps", "2"]);
    assert.notEqual(state(2), Math.fround(0.1));
    assert.notEqual(state(2), state(1));
    await succeeds("ppo.ts", [...common, "--steps", "3", "--resume"]);
    // One move changes the coefficient by at most a fiftieth (rate 0.1 × error of at most 0.2).
    assert.ok(Math.abs(state(3) / state(2) - 1) <= 0.0200001, `${state(3)} after ${state(2)}`);
  });
});
