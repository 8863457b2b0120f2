import assert from "node:assert/strict";
import { jsonLines, type Line, metricsOf, readLines, script, succeeds, withWorld } from "./fixtures.ts";

interface Logged extends Line {
  readonly prompt: string;
  readonly completion: string;
  readonly role?: string;
  readonly tokens: readonly string[];
  readonly perToken: Readonly<Record<string, readonly number[]>>;
  readonly scores: Readonly<Record<string, number>>;
}
interface Evaluated extends Line {
  readonly step: number;
  readonly when: string;
  readonly sequences: number;
  readonly fields: Readonly<Record<string, { readonly mean: number; readonly error: number }>>;
  readonly reference: { readonly klK1: number; readonly klK3: number } | null;
  readonly samples: readonly { readonly response: string; readonly reward: number }[];
}
const metricsIn = (out: string) => metricsOf(out) as Readonly<Record<string, number>>[];
const samplesIn = (out: string) => readLines(`${out}/samples.jsonl`) as Logged[];
const evaluationsIn = (out: string) => readLines(`${out}/evaluations.jsonl`) as unknown as Evaluated[];

/** Runs a kind of figures.ts and gives its output folder. */
async function figures(world: string, kind: string, ...args: string[]): Promise<string> {
  const out = `${world}/${kind}`;
  await succeeds("figures.ts", ["--world", world, "--kind", kind, "--out", out, ...args]);
  return out;
}

Deno.test("ReMax with the greedy generation first shows the sampled one everywhere", async () => {
  await withWorld(async (world) => {
    const out = await figures(world, "remax"), metrics = metricsIn(out);
    assert.deepEqual([metrics[0]!.klK1, metrics[0]!.klK3], [0, 0]);
    assert.ok(metrics[1]!.klK3! > 0);
    for (const line of metrics) {
      assert.equal(line["parity/max_abs"], 0);
      assert.equal(line["reward/rewards"], line.reward);
      assert.ok(Number.isFinite(line["reward/baseline"]));
    }
    for (const s of samplesIn(out)) {
      assert.equal(s.tokens.length, s.scores.length);
      assert.equal(s.perToken.logprobs!.length, s.tokens.length);
      assert.equal(s.perToken.refLogprobs!.length, s.tokens.length);
      assert.ok(!("greedyLogprobs" in s.perToken) && "greedyLength" in s.scores);
    }
    const [before, ...later] = evaluationsIn(out);
    assert.deepEqual([before!.reference!.klK1, before!.reference!.klK3], [0, 0]);
    assert.deepEqual([before, ...later].map((e) => [e!.step, e!.when]), [
      [0, "before"],
      [1, "between"],
      [2, "after"],
    ]);
    // The pair of a response and its reward: their mean is the field's.
    const rewards = before!.samples.map((s) => s.reward);
    const mean = rewards.reduce((a, b) => a + b) / rewards.length;
    assert.ok(Math.abs(mean - before!.fields.rewards!.mean) < 1e-5);
    // Three samples of a prompt differ, three greedy ones do not.
    assert.ok(new Set(before!.samples.slice(0, 3).map((s) => s.response)).size > 1);
  });
});

Deno.test("two train calls on one model have their own metrics, and parity is of the first", async () => {
  await withWorld(async (world) => {
    for (const line of metricsIn(await figures(world, "twice"))) {
      assert.equal(line["parity/max_abs"], 0);
      for (const call of ["actor.train", "actor.train#2"]) {
        assert.ok(Number.isFinite(line[`${call}/loss`]), call);
        assert.ok(line[`${call}/gradientNorm`]! > 0, call);
      }
      assert.notEqual(line["actor.train/loss"], line["actor.train#2/loss"]);
      assert.ok(!("actor/loss" in line));
    }
  });
});

Deno.test("a train call that stops at its first mini-batch keeps its metrics and says so", async () => {
  await withWorld(async (world) => {
    for (const line of metricsIn(await figures(world, "stops"))) {
      assert.equal(line["actor/updates"], 0);
      assert.equal(line["actor/always"], 1);
      assert.ok(Number.isFinite(line["actor/loss"]));
      assert.ok(!("actor/gradientNorm" in line) && !("actor/learningRate" in line));
      assert.equal(line["parity/max_abs"], 0);
    }
  });
});

Deno.test("a reward of any name is the reward, and its error is over prompts", async () => {
  await withWorld(async (world) => {
    const out = await figures(world, "renamed", "--config", await allSamples(world));
    const samples = samplesIn(out).filter((s) => s.step === 1).map((s) => s.scores.quality!);
    const means = [0, 3, 6, 9].map((at) => samples.slice(at, at + 3).reduce((a, b) => a + b) / 3);
    const mean = means.reduce((a, b) => a + b) / 4;
    const error = Math.sqrt(means.reduce((n, x) => n + (x - mean) ** 2, 0) / 3 / 4);
    const [first] = metricsIn(out);
    assert.ok(Math.abs(first!.reward! - mean) < 1e-6);
    assert.ok(Math.abs(first!.rewardError! - error) < 1e-6, `${first!.rewardError} is not ${error}`);
    assert.ok(first!.entropy! > 0 && first!.entropy! <= 2 * Math.log(32));
    for (const e of evaluationsIn(out)) {
      assert.equal(e.reward, "quality");
      assert.deepEqual([e.sequences, e.rows], [6, 2]);
      assert.ok(e.samples.every((s) => Number.isFinite(s.reward)));
    }
    assert.match(await Deno.readTextFile(`${out}/report.html`), /"name":"evaluation\/reward"/);
  });
});

async function allSamples(world: string): Promise<string> {
  await Deno.writeTextFile(`${world}/all.yaml`, "run: { logSamples: 100 }\n");
  return `${world}/all.yaml`;
}

Deno.test("samples of pairs and conversations hold their texts, and pairs which is which", async () => {
  await withWorld(async (world) => {
    await jsonLines(`${world}/pairs.jsonl`, [
      { prompt: "the cat", chosen: " sat.", rejected: " ran" },
      { prompt: "one", chosen: " two", rejected: " one" },
    ]);
    const pairs = samplesIn(await figures(world, "pairs")).filter((s) => s.step === 1);
    assert.deepEqual(pairs.map((s) => [s.index, s.role, s.prompt + s.completion]), [
      [0, "chosen", "the cat sat."],
      [0, "rejected", "the cat ran"],
      [1, "chosen", "one two"],
      [1, "rejected", "one one"],
    ]);
    for (const s of pairs) {
      assert.ok(s.prompt.length > 0 && s.completion.startsWith(" "), `${s.prompt}|${s.completion}`);
      assert.equal(s.tokens.join("").replaceAll(/<\/?s>/g, ""), s.completion);
    }
    const [first] = samplesIn(await figures(world, "conversations"));
    assert.equal(first!.prompt + first!.completion, "the cat, the cat.");
    assert.ok(!("role" in first!));
  });
});

Deno.test("a resumed run compares with its start", async () => {
  await withWorld(async (world) => {
    const whole = await figures(world, "renamed", "--steps", "4");
    await Deno.rename(whole, `${world}/whole`);
    const out = await figures(world, "renamed", "--steps", "2");
    const { err } = await succeeds("figures.ts", [
      ...["--world", world, "--kind", "renamed", "--out", out],
      ...["--steps", "4", "--resume"],
    ]);
    const titles = (text: string) => text.match(/held-out sequences .*change/)?.[0].split(/\s{2,}/).slice(1);
    assert.deepEqual(titles(err), ["before", "after", "change"]);
    assert.deepEqual(evaluationsIn(out).map((e) => [e.step, e.when]), [
      [0, "before"],
      [2, "after"],
      [4, "after"],
    ]);
    const [before, , after] = evaluationsIn(out),
      [wholeBefore, , wholeAfter] = evaluationsIn(`${world}/whole`);
    assert.deepEqual([before, after], [wholeBefore, wholeAfter]);
  });
});

Deno.test("steps() of a script that is run directly takes the flags of every run", async () => {
  await withWorld(async (world) => {
    const args = ["--world", world, "--kind", "twice", "--each", "--out", `${world}/out`];
    const { out } = await succeeds("figures.ts", [...args, "--steps", "3", "--quiet"]);
    assert.equal(out, "step 1\nstep 2\nstep 3\n");
    assert.equal(metricsOf(`${world}/out`).length, 3);
    const again = await script("figures.ts", [...args, "--steps", "3"]);
    assert.match(again.err, /^error: Cannot start a run in [^\n]+\n$/);
    assert.equal(again.code, 1);
  });
});

Deno.test("a run that cannot evaluate on so many rows says so before it begins", async () => {
  await withWorld(async (world) => {
    await jsonLines(`${world}/prompts.jsonl`, ["a", "b", "c", "d", "e"].map((prompt) => ({ prompt })));
    const args = ["--world", world, "--kind", "renamed", "--out", `${world}/out`];
    const { code, err } = await script("figures.ts", args);
    assert.match(
      err,
      /^error: Cannot evaluate on 2 rows of [^\n]+: 1 are held out, lower evaluate\.prompts or raise heldOut\n$/,
    );
    assert.equal(code, 1);
    await assert.rejects(Deno.stat(`${world}/out`));
  });
});
