import assert from "node:assert/strict";
import {
  afterSizes,
  type Line,
  listing,
  metricsOf,
  outcome,
  readLines,
  script,
  succeeds,
  withWorld,
} from "./fixtures.ts";

Deno.test("a run writes every metric of every step", async () => {
  await withWorld(async (world) => {
    await succeeds("ppo.ts", ["--world", world, "--steps", "3", "--out", `${world}/out`]);
    const lines = readLines(`${world}/out/metrics.jsonl`) as Readonly<Record<string, number>>[];
    assert.deepEqual(lines.map((line) => line.step), [1, 2, 3]);
    const wanted: Record<string, (value: number) => boolean> = {
      reward: (x) => x >= 0,
      rewardError: (x) => x >= 0,
      klK1: Number.isFinite,
      klK3: (x) => x >= 0,
      "actor/entropy": (x) => x > 0 && x <= Math.log(32),
      "actor/clipFraction": (x) => x >= 0 && x <= 1,
      "actor/gradientNorm": (x) => x > 0,
      "critic/gradientNorm": (x) => x > 0,
      "actor/loss": Number.isFinite,
      "critic/loss": (x) => x > 0,
      "actor/learningRate": (x) => x === 1e-3,
      explainedVariance: (x) => x <= 1,
      length: (x) => x >= 1 && x <= 12,
      truncated: (x) => x >= 0 && x <= 1,
      "parity/max_abs": (x) => x === 0,
      tokensPerSecond: (x) => x > 0,
      mfu: (x) => x > 0 && x < 2,
      seconds: (x) => x > 0,
    };
    for (const line of lines) {
      for (const [name, good] of Object.entries(wanted)) {
        assert.ok(typeof line[name] === "number" && good(line[name]), `${name} is ${line[name]}`);
      }
    }
    // The policy has moved away from the reference by the third step, and not before the first.
    assert.equal(lines[0]!.klK3, 0);
    assert.ok(lines[2]!.klK3! > 0);
  });
});

interface LoggedSample extends Line {
  readonly tokens: string[];
  readonly completion: string;
  readonly perToken: Readonly<Record<string, number[]>>;
  readonly scores: Readonly<Record<string, number>>;
}

Deno.test("a run logs samples with all that was computed about them", async () => {
  await withWorld(async (world) => {
    await succeeds("ppo.ts", ["--world", world, "--steps", "2", "--out", `${world}/out`]);
    const samples = readLines(`${world}/out/samples.jsonl`) as LoggedSample[];
    const prompts = readLines(`${world}/prompts.jsonl`).map((line) => line.prompt);
    assert.deepEqual([1, 2].map((step) => samples.filter((s) => s.step === step).length), [4, 4]);
    for (const s of samples) {
      assert.equal(s.prompt, prompts[s.index as number]);
      assert.equal(s.weightVersion, (s.step as number) - 1);
      for (const field of ["logprobs", "refLogprobs", "values", "tokenRewards", "advantages", "returns"]) {
        assert.equal(s.perToken[field]?.length, s.tokens.length, field);
        assert.ok(s.perToken[field]!.every(Number.isFinite), field);
      }
      assert.equal(s.tokens.join("").replaceAll(/<\/?s>/g, ""), s.completion);
      assert.equal(s.tokens.at(-1) === "</s>", s.finished);
      assert.equal(s.scores.rewards, s.completion.match(/[aeiou]/g)?.length ?? 0);
      assert.ok(s.perToken.logprobs!.every((x) => x <= 0));
    }
  });
});

Deno.test("responses that no token stops have the length that was asked for", async () => {
  await withWorld(async (world) => {
    const args = ["--steps", "2", "--max-new", "20", "--ignore-eos", "--out", `${world}/out`];
    await succeeds("ppo.ts", ["--world", world, ...args]);
    for (const line of metricsOf(`${world}/out`)) assert.deepEqual([line.length, line.truncated], [20, 1]);
  });
});

Deno.test("threads, micro-batches and recomputation change no bit of a run", async () => {
  await withWorld(async (world) => {
    const outcomes: unknown[] = [];
    for (
      const [threads, plan] of [
        ["2", "{}"],
        ["1", "{ recompute: layers }"],
        ["2", "{ microBatchTokens: 40, recompute: cheap }"],
        ["1", "{ microBatchTokens: 70 }"],
      ] as const
    ) {
      const out = `${world}/out-${outcomes.length}`;
      await Deno.writeTextFile(`${world}/run.yaml`, `plan: ${plan}\nrun: { logSamples: 100 }\n`);
      const args = ["--steps", "2", "--threads", threads, "--config", `${world}/run.yaml`, "--out", out];
      await succeeds("ppo.ts", ["--world", world, ...args]);
      assert.equal(readLines(`${out}/samples.jsonl`).length, 16);
      outcomes.push(outcome(out));
    }
    for (const other of outcomes) assert.deepEqual(other, outcomes[0]);
  });
});

Deno.test("a resumed run follows the learning rate schedule of its new length from where it is", async () => {
  await withWorld(async (world) => {
    const args = ["--world", world, "--schedule", "cosine"];
    await succeeds("ppo.ts", [...args, "--steps", "4", "--out", `${world}/whole`]);
    await succeeds("ppo.ts", [...args, "--steps", "2", "--out", `${world}/parts`]);
    await succeeds("ppo.ts", [...args, "--steps", "4", "--out", `${world}/parts`, "--resume"]);
    const rates = (out: string) => metricsOf(out).map((line) => line["actor/learningRate"] as number);
    const whole = rates(`${world}/whole`), parts = rates(`${world}/parts`);
    assert.deepEqual(parts.slice(2), whole.slice(2));
    // The first half decayed to the end of a run of two steps: that run was another one.
    assert.ok(parts[1]! < whole[1]!);
  });
});

const NOT_MADE = new RegExp(
  "\\nerror: Cannot train in (actor|critic)\\.train: the (loss|gradient norm) of update \\d+ is -?(NaN|Infinity), " +
    "the update was not made; [^\\n]+, checkpoints are as they were\\n$",
);

for (const name of ["ppo.ts", "sft.ts"]) {
  Deno.test(`${name} stops before an update that is not a number and keeps the last good checkpoint`, async () => {
    await withWorld(async (world) => {
      const args = [
        "--world",
        world,
        "--save-every",
        "1",
        "--lr",
        "1e30",
        ...name === "ppo.ts" ? ["--minibatches", "1"] : [],
      ];
      const { code, err } = await script(name, [...args, "--steps", "9", "--out", `${world}/out`]);
      assert.match(err, NOT_MADE);
      assert.equal(code, 1);
      const done = metricsOf(`${world}/out`).length;
      await succeeds(name, [...args, "--steps", `${done}`, "--out", `${world}/good`]);
      assert.deepEqual(listing(`${world}/out/checkpoints`), listing(`${world}/good/checkpoints`));
    });
  });
}

Deno.test("weights that are no numbers end a run before its first update", async () => {
  await withWorld(async (world) => {
    const path = `${world}/policy/model.safetensors`, bytes = await Deno.readFile(path);
    bytes.fill(0xff, bytes.length - 64); // the last tensor by name is the final norm
    await Deno.writeFile(path, bytes);
    const { code, err } = await script("sft.ts", ["--world", world, "--steps", "2", "--out", `${world}/out`]);
    assert.match(
      afterSizes(err),
      /^error: Cannot train in actor\.train: the loss of update 1 is NaN, the update was not made[^\n]+\n$/,
    );
    assert.equal(code, 1);
    const rollout = await script("ppo.ts", ["--world", world, "--steps", "2", "--out", `${world}/ppo`]);
    assert.match(
      afterSizes(rollout.err),
      /^error: Cannot run actor\.generate: prefill: [^\n]*the logits of slot \d are not finite, look at its weights and the learning rate \(ppo\.ts:\d+\)\n$/,
    );
    assert.equal(rollout.code, 1);
  });
});
