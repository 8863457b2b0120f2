/** The benchmark measures what it says: every case runs, and its operation counts are those of the programs. */
import assert from "node:assert/strict";
import { benchConfig, compileBench, usefulFlops } from "../../bench/cases.ts";
import { floorSeconds, measureRates, productWeights } from "../../bench/floor.ts";
import { median, timed } from "../../bench/measure.ts";
import { modelCase } from "../../bench/model_cases.ts";
import { grpoStep, ppoStep } from "../../bench/workflow_cases.ts";
import { Devices } from "../../engine/devices.ts";
import { Device } from "../../ffi/device.ts";
import { conversations, models, policyModel, workflow } from "../../mod.ts";

const STRATEGY = { dp: 1, tp: 1, pp: 1 };
const ONCE = {
  size: "T",
  strategy: STRATEGY,
  limits: { repetitions: 1, warm: 1, budget: 0 },
  profile: true,
} as const;

Deno.test("usefulFlops() agrees with the program that is compiled", () => {
  const config = benchConfig("S"), [rows, length] = [8, 256];
  const { ref } = models({ ref: policyModel("random") });
  const { graph } = workflow({
    name: "x",
    data: conversations("x.jsonl", { batch: rows }),
    flow: ref.infer(),
  });
  const sizes = { sequences: rows, group: 1, longestPrompt: 0, longest: length, longestResponse: length - 1 };
  const program = compileBench(graph, { ref: config }, sizes).programs.infer["ref.infer"]![0]![0]!;
  const live = {
    tokens: rows * length,
    actions: rows * (length - 1),
    sequences: rows,
    groups: 0,
    pairs: 0,
    shard: 0,
    one: 1,
  };
  const ratio = program.flops(live) / usefulFlops(config, live.tokens, length / 2, live.actions);
  assert.ok(Math.abs(ratio - 1) < 0.01, `the program counts ${ratio} times as many`);
});

for (const name of ["train_step", "logprob", "gen_b8_greedy", "gen_b8_sample"]) {
  Deno.test(`modelCase() measures ${name}`, async () => {
    using devices = Devices.open({ count: 1, threads: 1 });
    const result = await modelCase(devices, name, ONCE);
    const tokens = name.startsWith("gen") ? 8 * 128 : 8 * 256;
    assert.equal(Math.round(result.tokens_per_s * result.median_s), tokens);
    assert.ok(result.n >= 1 && result.gflops > 0 && result.share > 0, JSON.stringify(result));
    const { host, ...kinds } = result.profile_ms!,
      device_ms = Object.values(kinds).reduce((a, b) => a + b, 0);
    assert.equal(result.floor_s, undefined);
    assert.ok(kinds.matmul! > 0 && host! > 0);
    assert.ok(Math.abs(device_ms + host! - 1000 * result.mean_s) < 1e-6);
  });
}

Deno.test("a floor is the longer of operations and bytes, phase by phase, from the cache that holds the working set", () => {
  const rates = { gflops: 100, read: [{ bytes: 1e6, gbps: 50 }, { bytes: 1e8, gbps: 10 }] };
  const seconds = floorSeconds([
    { flops: 2e9, bytes: 0, workingSet: 0 },
    { flops: 1, bytes: 5e7, workingSet: 1e6 },
    { flops: 1, bytes: 5e7, workingSet: 2e6 },
    { flops: 1, bytes: 5e7, workingSet: 1e9 },
  ], rates);
  assert.ok(Math.abs(seconds - (0.02 + 0.001 + 0.005 + 0.005)) < 1e-9, `${seconds}`);
});

Deno.test("the phases of a generation are its useful operations, and the bytes of weights and cache", async () => {
  using devices = Devices.open({ count: 1, threads: 1 });
  // At one operation a nanosecond and free bytes the floor counts operations.
  const rates = { gflops: 1, read: [{ bytes: 1, gbps: 1e9 }] };
  const result = await modelCase(devices, "gen_b8_greedy", { ...ONCE, rates });
  const flops = result.gflops * result.median_s;
  assert.ok(Math.abs(result.floor_s! / flops - 1) < 0.01, `${result.floor_s} s, ${flops} GFLOP`);
  assert.equal(result.of_floor, result.floor_s! / result.median_s);
});

Deno.test("measureRates() measures every size of working set", () => {
  using device = Device.open({ threads: 1 });
  const { gflops, read } = measureRates(device);
  assert.ok(
    gflops > 0 && read.length > 3 && read.every((r) => Number.isFinite(r.gbps) && r.gbps > 0),
    JSON.stringify(read),
  );
});

Deno.test("modelCase() refuses a case that it does not know", async () => {
  using devices = Devices.open({ count: 1, threads: 1 });
  await assert.rejects(modelCase(devices, "train_steps", ONCE), /Cannot run case train_steps/);
});

Deno.test("ppoStep() times every call of a step", async () => {
  using devices = Devices.open({ count: 1, threads: 1 });
  const { phase_s, s_per_step } = await ppoStep(devices, ONCE);
  const calls = [
    "actor.generate",
    "score.rewards",
    "ref.infer",
    "critic.infer",
    "actor.train",
    "critic.train",
  ];
  for (const call of calls) {
    assert.ok(phase_s[call]! > 0 && phase_s[call]! <= 2 * s_per_step, `${call}: ${phase_s[call]}`);
  }
});

Deno.test("grpoStep() times every call of a step", async () => {
  using devices = Devices.open({ count: 1, threads: 1 });
  const { phase_s, s_per_step, sequences_per_step } = await grpoStep(devices, ONCE);
  assert.equal(sequences_per_step, 32);
  for (const call of ["actor.generate", "score.rewards", "actor.train"]) {
    assert.ok(phase_s[call]! > 0 && phase_s[call]! <= 2 * s_per_step, `${call}: ${phase_s[call]}`);
  }
});

Deno.test("the floor of a GRPO step is one prefill a group, its decode steps and a training step", async () => {
  using devices = Devices.open({ count: 1, threads: 1 });
  const operations = await grpoStep(devices, {
    ...ONCE,
    rates: { gflops: 1, read: [{ bytes: 1, gbps: 1e9 }] },
  });
  const c = benchConfig("T"), decoded = 32 * 63;
  const flops = usefulFlops(c, 4 * 32, 16, 4) + usefulFlops(c, decoded, 32 + 32) +
    3 * usefulFlops(c, 32 * 96, 48, 32 * 64);
  assert.ok(
    Math.abs(operations.floor_s! * 1e9 / flops - 1) < 1e-3,
    `${operations.floor_s} s, ${flops} operations`,
  );
  const bytes = await grpoStep(devices, { ...ONCE, rates: { gflops: 1e18, read: [{ bytes: 1, gbps: 1 }] } });
  assert.ok(bytes.floor_s! * 1e9 > 63 * 4 * productWeights(c) + 28 * productWeights(c), "weights are read");
});

Deno.test("timed() makes as many repetitions as asked, and three whatever the budget", async () => {
  let runs = 0;
  const repeat = () => Promise.resolve(runs++);
  assert.equal((await timed(repeat, { repetitions: 5, warm: 2, budget: 0 })).n, 3);
  assert.equal(runs, 5);
});

Deno.test("median() is the middle, or the mean of the two in the middle", () => {
  assert.equal(median([5, 1, 3]), 3);
  assert.equal(median([4, 1, 3, 2]), 2.5);
});
