/** A batch that is refilled, narrowed or made in several turns is the same under every plan, and so is what is learned from it. */
import assert from "node:assert/strict";
import { type Line, metricsOf, outcome, readLines, ROOT, succeeds, withWorld } from "../run/fixtures.ts";

const SCRIPT = `${ROOT}tests/cluster/scripts/flows.ts`;
const PLANS = [["cpu:1", "dp1"], ["cpu:4", "dp4"], ["cpu:4", "dp2pp2"]] as const;

interface Ran {
  readonly metrics: readonly Line[];
  readonly samples: readonly Line[];
}

/** The same two steps of a case under every plan. */
async function everywhere(name: string, check: (first: Ran) => void): Promise<void> {
  await withWorld(async (world) => {
    const runs: Ran[] = [];
    for (const [devices, strategy] of PLANS) {
      const out = `${world}/${name}-${strategy}`;
      const args = ["--world", world, "--case", name, "--steps", "2", "--devices", devices];
      await succeeds(SCRIPT, [...args, "--strategy", strategy, "--out", out]);
      runs.push({ metrics: metricsOf(out), samples: readLines(`${out}/samples.jsonl`) });
    }
    const [first, ...others] = runs as [Ran, ...Ran[]];
    for (const other of others) {
      // The first step's samples come from the same weights: tokens and log-probabilities are bit-identical.
      const of = (run: Ran) => run.samples.filter((line) => line.step === 1);
      assert.deepEqual(of(other), of(first));
      assert.equal(other.metrics.length, 2);
      for (const [i, line] of first.metrics.entries()) {
        for (const [key, value] of Object.entries(line)) {
          const theirs = other.metrics[i]![key] as number, mine = value as number;
          assert.ok(
            Math.abs(theirs - mine) <= 1e-4 * Math.max(1, Math.abs(mine)),
            `${key}: ${mine} and ${theirs}`,
          );
        }
      }
    }
    check(first);
  });
}

Deno.test("refill() draws the same prompts again under every plan", async () => {
  await everywhere("refill", ({ metrics }) => {
    assert.ok(metrics.some((line) => (line["refill/rounds"] as number) > 1), "some prompts are replaced");
    assert.ok(metrics.every((line) => line["parity/max_abs"] === 0));
  });
});

Deno.test("select() keeps the same samples under every plan, and says so of all that were made", async () => {
  await everywhere("select", ({ metrics }) => {
    const [line] = metrics;
    assert.equal(line!["parity/max_abs"], 0);
    assert.ok(Number.isFinite(line!["select/kept"]) && Number.isFinite(line!.reward));
    assert.ok(
      Math.abs((line!["actor/loss"] as number) - Math.LN2) < 0.01,
      "actor and reference begin as one",
    );
  });
});

Deno.test("tools are asked and answered the same under every plan, and their tokens are no actions", async () => {
  await everywhere("tools", ({ metrics, samples }) => {
    assert.ok(metrics.every((line) => line["parity/max_abs"] === 0));
    const asked = samples.filter((s) => / [a-m] so/.test(s.completion as string));
    assert.ok(asked.length > 0, "some samples ask");
    for (const s of asked) {
      const said = s.completion as string, asks = said.match(/[a-m] [a-m] so/g)?.length ?? 0;
      const { logprobs } = s.perToken as { logprobs: number[] };
      // A token is a letter; an answer has five, and every turn may end with a stop token that is not shown.
      assert.ok(asks > 0 && logprobs.length <= said.length - 5 * asks + asks + 1, said);
    }
  });
});

Deno.test("a refilled run that stops and resumes goes on as if it had not stopped", async () => {
  await withWorld(async (world) => {
    const args = (
      out: string,
      steps: number,
    ) => [
      "--world",
      world,
      "--case",
      "refill",
      "--steps",
      `${steps}`,
      "--save-every",
      "1",
      "--out",
      `${world}/${out}`,
    ];
    await succeeds(SCRIPT, args("whole", 3));
    await succeeds(SCRIPT, args("parts", 1));
    await succeeds(SCRIPT, [...args("parts", 3), "--resume"]);
    assert.deepEqual(outcome(`${world}/parts`), outcome(`${world}/whole`));
  });
});

Deno.test("kept tokens travel with their samples: sampling and training say the same of them under every plan", async () => {
  await everywhere("kept", ({ metrics }) => {
    assert.ok(metrics.every((line) => line["parity/max_abs"] === 0));
    assert.ok(Math.abs(metrics[0]!.klK3 as number) < 1e-6, "actor and reference begin as one");
  });
});
