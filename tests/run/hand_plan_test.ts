/** examples/ppo.ts under the hand plan of docs/parallelism.md: six calls on meshes of their own, and what the run leaves behind. */
import assert from "node:assert/strict";
import { metricsOf, ROOT, succeeds } from "./fixtures.ts";

const STEPS = 3;

async function runOf(out: string, flags: readonly string[]): Promise<Record<string, number>[]> {
  await succeeds(`${ROOT}examples/ppo.ts`, [
    "--steps",
    `${STEPS}`,
    "--batch",
    "128",
    "--out",
    out,
    "--quiet",
    ...flags,
  ]);
  return metricsOf(out) as unknown as Record<string, number>[];
}

Deno.test("examples/ppo.ts under the hand plan samples and learns what it does on one device", async () => {
  const folder = await Deno.makeTempDir({ prefix: "baton-hand-" });
  try {
    const plan = `${ROOT}examples/plans/ppo_hand.yaml`;
    const one = await runOf(`${folder}/one`, []),
      many = await runOf(`${folder}/many`, ["--devices", "cpu:8", "--plan", plan]);
    assert.equal(many[0]!.reward, one[0]!.reward, "the first rollout is the same");
    for (const name of ["actor/loss", "critic/loss", "actor/gradientNorm", "critic/gradientNorm", "klK3"]) {
      const [a, b] = [one[0]![name]!, many[0]![name]!];
      assert.ok(Math.abs(a - b) <= 1e-4 * Math.max(1, Math.abs(a)), `${name}: ${b}, not ${a}`);
    }
    for (const [step, { reward, rewardError }] of many.entries()) {
      const error = Math.hypot(rewardError!, one[step]!.rewardError!);
      assert.ok(Math.abs(reward! - one[step]!.reward!) <= 2 * error, `reward of step ${step + 1}`);
      assert.ok(many[step]!["reallocation/bytes"]! > 0);
    }
    const { traceEvents } = JSON.parse(await Deno.readTextFile(`${folder}/many/timeline.json`)) as {
      traceEvents: Record<string, unknown>[];
    };
    const threads = traceEvents.filter((e) => e.name === "thread_name").map((e) =>
      (e.args as { name: string }).name
    );
    for (let device = 0; device < 8; device++) {
      assert.ok(threads.includes(`device ${device}`), threads.join());
    }
    for (const lane of ["call", "reallocation", "transfer"]) {
      assert.ok(traceEvents.some((e) => e.cat === lane), lane);
    }
    const report = await Deno.readTextFile(`${folder}/many/report.html`);
    for (const text of ["actor@0 → actor@1", "critic@0 → critic@1", "Reallocations", 'id="gantt"']) {
      assert.ok(report.includes(text), text);
    }
    const again = await runOf(`${folder}/again`, [
      "--devices",
      "cpu:8",
      "--plan",
      `${folder}/many/plan.yaml`,
    ]);
    assert.deepEqual(
      again.map((m) => m.reward),
      many.map((m) => m.reward),
      "the plan that a run leaves behind is the plan",
    );
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
