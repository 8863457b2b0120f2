import assert from "node:assert/strict";
import { readPlanFile } from "../../run/plan_file.ts";
import { readLines, script, succeeds, withWorld } from "./fixtures.ts";

Deno.test("a run with two devices and no plan makes one, says what it promises, and reports it beside what was measured", async () => {
  await withWorld(async (world) => {
    const out = `${world}/out`;
    const { code, err } = await script("ppo.ts", [
      "--world",
      world,
      "--steps",
      "2",
      "--devices",
      "cpu:2",
      "--out",
      out,
    ]);
    assert.equal(code, 0, err);
    assert.match(
      err,
      /^planned: .* per step predicted with the profile of .*, at most \d+ % above any plan/m,
    );
    const again = await succeeds("ppo.ts", [
      ...["--world", world, "--steps", "1", "--devices", "cpu:2", "--out", `${world}/again`],
    ]);
    assert.match(again.err, /^planned, found before: /m);
    assert.equal(
      await Deno.readTextFile(`${world}/again/plan.yaml`),
      await Deno.readTextFile(`${out}/plan.yaml`),
    );
    const plan = await readPlanFile(`${out}/plan.yaml`),
      report = await Deno.readTextFile(`${out}/report.html`);
    assert.deepEqual(plan.cluster, { nodes: 1, devicesPerNode: 2 });
    assert.match(report, /Predicted and measured seconds/);
    const data = JSON.parse(/id="data">(.*?)<\/script>/.exec(report)![1]!);
    const labels = data.gantt.rows.map((row: { label: string }) => row.label);
    assert.ok(labels.some((l: string) => l.startsWith("plan ")) && labels.includes("device 0"), labels);
    // A strategy is not questioned.
    const own = await script("ppo.ts", [
      "--world",
      world,
      "--steps",
      "1",
      "--devices",
      "cpu:2",
      "--strategy",
      "tp1dp2",
      "--out",
      `${world}/own`,
    ]);
    assert.equal(own.code, 0, own.err);
    assert.ok(!own.err.includes("planned:"));
  });
});

Deno.test("seconds of a score function are part of what a run is promised, and another call's name is refused", async () => {
  await withWorld(async (world) => {
    const own = (out: string, host: string) =>
      script("ppo.ts", [
        "--world",
        world,
        "--steps",
        "1",
        "--devices",
        "cpu:2",
        "--host",
        host,
        "--out",
        `${world}/${out}`,
      ]);
    const { code, err } = await own("out", "rewards=7");
    assert.equal(code, 0, err);
    const [first] = readLines(`${world}/out/plans.jsonl`);
    assert.ok(first!.planned as number > 7 && first!.planned as number < 8);
    assert.match(
      (await own("odd", "actor.train=1")).err,
      /^error: Cannot plan ppo: seconds are given for "actor\.train", .* name one of score\.rewards$/m,
    );
  });
});
