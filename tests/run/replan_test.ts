/** A run that goes over to another plan between two steps does what it would have done under the first one. */
import { createHash } from "node:crypto";
import assert from "node:assert/strict";
import { type Precision, storedIn } from "../../compiler/models/storage.ts";
import { parsePlanFile, type PlanFile } from "../../planner/plan_file.ts";
import {
  adamw,
  adaptiveKl,
  gae,
  models,
  policyModel,
  ppoClip,
  prompts,
  rewardModel,
  shapedRewards,
  valueClip,
  valueModel,
  type Workflow,
  workflow,
} from "../../mod.ts";
import type { Part } from "../../engine/replica.ts";
import { Session } from "../../run/session.ts";
import { jsonLines, metricsOf, outcome, readLines, succeeds, tinyModel, withWorld } from "./fixtures.ts";

const CALLS = ["actor.generate", "reward.infer", "ref.infer", "critic.infer", "actor.train", "critic.train"];

/** All calls under one layout, but for some; calls whose models are in the host's memory between them. */
function plan(
  layout: string,
  other: Readonly<Record<string, string>> = {},
  offloaded: readonly string[] = [],
): PlanFile {
  const read = (text: string) => {
    const [devices, strategy] = text.split(" ") as [string, string];
    const axes = [...strategy.matchAll(/(dp|tp|pp)(\d)/g)].map((m) => [m[1]!, Number(m[2])]);
    return { devices, ...Object.fromEntries(axes) };
  };
  const calls = Object.fromEntries(
    CALLS.map((id) => [id, {
      ...read(other[id] ?? layout),
      ...offloaded.includes(id) && { offload: true },
    }]),
  );
  return parsePlanFile({ defaults: { microBatchTokens: 96 }, calls }, "the test's plan");
}

function ppo(world: string, maxLag: number): Workflow {
  const { actor, critic, ref, reward } = models({
    actor: policyModel(`${world}/policy`, adamw({ lr: 1e-3 })),
    critic: valueModel(`${world}/policy`, adamw({ lr: 1e-3 })),
    ref: policyModel(`${world}/policy`),
    reward: rewardModel(`${world}/reward`),
  });
  const { beta, move } = adaptiveKl({ init: 0.1, target: 0.05 });
  return workflow({
    name: "replanned",
    data: prompts(`${world}/prompts.jsonl`, { batch: 4, shuffle: true }),
    flow: actor.generate({ maxNewTokens: 12, samples: 2, maxLag })
      .then(reward.infer(), ref.infer().as("refLogprobs"), critic.infer())
      .then(shapedRewards({ beta }), move).then(gae({ gamma: 1, lambda: 0.95 }))
      .then(
        actor.train(ppoClip({ epsilon: 0.2 }), { minibatches: 2 }),
        critic.train(valueClip(), { minibatches: 2 }),
      ),
  });
}

const open = (flow: Workflow, planFile: PlanFile, precision: Precision = "fp32") =>
  Session.open(flow, {
    steps: 10,
    seed: 1,
    machine: {
      devices: { nodes: 1, perNode: 4 },
      threads: 1,
      memoryBytes: 2 ** 40,
      planFile,
      storage: storedIn(precision, precision),
    },
    toolSeconds: 10,
    scorers: () => new Map(),
  });

/** Parameters and moments of everything that is trained, and the states. */
function all({ engine }: Session): unknown {
  const found: Record<string, unknown> = { states: [...engine.states] };
  for (const [name, home] of engine.homes) {
    const parts: readonly Part[] = home.trained ? ["param", "m", "v"] : ["param"];
    for (const part of parts) {
      // A difference of long lists takes minutes to print.
      const sum = createHash("sha256");
      for (const p of engine.models[name]!.parameters) {
        sum.update(new Uint8Array(Float32Array.from(home.read(p, part)).buffer));
      }
      found[`${name}.${part}`] = sum.digest("hex");
    }
    found[`${name} counts`] = [home.version, home.updates];
  }
  return found;
}

/** Four steps, each begun ahead where that can be; after the second one under another plan. */
async function run(flow: Workflow, world: string, first: PlanFile, second?: PlanFile, precision?: Precision) {
  const session = await open(flow, first, precision), metrics: unknown[] = [];
  try {
    for (let step = 0; step < 4; step++) {
      metrics.push((await session.step({}, step < 3)).result.metrics);
      if (step !== 1 || !second) continue;
      const planned = { file: second, seconds: 1, line: "" }, before = all(session);
      await session.switchTo(await session.underPlan({ planned }), `${world}/checkpoints`);
      assert.deepEqual(all(session), before);
    }
    return { metrics, end: all(session) };
  } finally {
    session.dispose();
  }
}

/** Generation away from training: with lag it has weights of its own under every plan here. */
const START = plan("0-1 pp2", { "ref.infer": "0-3 dp4", "actor.generate": "2-3 dp2" });
/** Stages leave every sum of an update as it is; so does all that infers. */
const SAME: readonly PlanFile[] = [
  plan("0 dp1", { "actor.generate": "0-3 dp4" }),
  plan("2-3 pp2", { "critic.infer": "1 dp1", "critic.train": "0 dp1", "actor.generate": "0-3 dp2pp2" }),
  plan("1 dp1", { "actor.train": "0-1 pp2", "reward.infer": "0-1 dp2" }),
];

for (const maxLag of [0, 1]) {
  Deno.test(`steps after a switch of plans are bit for bit those without one, with lag ${maxLag}`, async () => {
    await withWorld(async (world) => {
      const flow = ppo(world, maxLag), without = await run(flow, world, START);
      for (const other of SAME) assert.deepEqual(await run(flow, world, START, other), without);
    });
  });
}

for (const precision of ["fp32", "bf16"] as const) {
  Deno.test(`a switch to, from and between plans that offload models changes no bit in ${precision}`, async () => {
    await withWorld(async (world) => {
      const flow = ppo(world, 1), without = await run(flow, world, START, undefined, precision);
      const all = plan("0-1 pp2", { "actor.generate": "2-3 dp2" }, CALLS);
      const some = plan("1 dp1", { "critic.train": "2-3 pp2", "actor.generate": "0-3 dp4" }, [
        "ref.infer",
        "critic.train",
      ]);
      const session = await open(flow, some, precision);
      const pooled = [...session.engine.homes].filter(([, r]) => r.spec.residence === "pool").map(([n]) => n);
      session.dispose();
      assert.deepEqual(pooled.sort(), ["critic", "ref"]);
      for (const [first, second] of [[START, all], [all, START], [some, all], [all, some]] as const) {
        assert.deepEqual(await run(flow, world, first, second, precision), without);
      }
    });
  });
}

Deno.test("master copies of bf16 parameters go over to another plan too", async () => {
  await withWorld(async (world) => {
    const flow = ppo(world, 1), without = await run(flow, world, START, undefined, "bf16");
    for (const other of SAME) assert.deepEqual(await run(flow, world, START, other, "bf16"), without);
  });
});

Deno.test("updates on shards or on shares after a switch differ by rounding only", async () => {
  await withWorld(async (world) => {
    const flow = ppo(world, 0), without = await run(flow, world, START);
    const other = await run(flow, world, START, plan("0-1 tp2", { "critic.train": "0-3 dp4" }));
    for (const name of ["actor/loss", "critic/loss", "reward"]) {
      const [a, b] = [without, other].map(({ metrics }) => (metrics[2] as Record<string, number>)[name]!);
      assert.ok(Math.abs(a! - b!) <= 1e-4 * Math.max(1, Math.abs(a!)), `${name}: ${b}, not ${a}`);
    }
  });
});

Deno.test("a plan that does not fit or is wrong leaves the run as it is", async () => {
  await withWorld(async (world) => {
    const session = await open(ppo(world, 0), START);
    try {
      await session.step({}, true);
      const before = all(session), planned = { file: plan("0-3 dp3"), seconds: 1, line: "" };
      await assert.rejects(session.underPlan({ planned }), /Cannot use the test's plan for "replanned": /);
      assert.deepEqual(all(session), before);
      await session.step({});
    } finally {
      session.dispose();
    }
  });
});

for (const offload of [false, true]) {
  Deno.test(
    `--replan goes over to a better plan when prompts are shorter than planned, and changes nothing else${
      offload ? ", from one that offloads too" : ""
    }`,
    () => replanned(offload),
  );
}

async function replanned(offload: boolean): Promise<void> {
  await withWorld(async (world) => {
    // A model with one head cannot be split, and neither can a step of one sequence: whatever is planned, every sum stays as it is.
    const one = { num_attention_heads: 1, num_key_value_heads: 1 };
    await tinyModel(`${world}/policy`, { config: one });
    // The first steps see short prompts only.
    const rows = Array.from({ length: 64 }, (_, i) => ({ prompt: i < 24 ? "cat" : "the cat sat with dogs" }));
    await jsonLines(`${world}/prompts.jsonl`, rows);
    const calls = ["actor.generate", "ref.infer", "critic.infer", "actor.train", "critic.train"];
    await Deno.writeTextFile(
      `${world}/plan.yaml`,
      `defaults: { microBatchTokens: 48 }\ncalls:\n${
        calls.map((id) => `  ${id}: { devices: 0-1, pp: 2${offload ? ", offload: true" : ""} }\n`).join("")
      }`,
    );
    const args = [
      "--world",
      world,
      "--steps",
      "6",
      "--no-shuffle",
      "--devices",
      "cpu:2",
      "--batch",
      "1",
      "--samples",
      "1",
      "--minibatches",
      "1",
    ];
    const own = (out: string, more: readonly string[]) =>
      succeeds("ppo.ts", [...args, "--plan", `${world}/plan.yaml`, "--out", `${world}/${out}`, ...more]);
    const { err } = await own("plain", []), again = await own("again", ["--replan"]);
    assert.match(err, /^prompts have 3 tokens on average and were planned with 14\.3$/m);
    assert.match(err, /--replan plans again with what was measured/);
    assert.match(
      again.err,
      /^planned again: from here on .* s per step predicted, .* with the plan so far$/m,
    );
    const events = readLines(`${world}/again/plans.jsonl`);
    assert.deepEqual([events[0]!.event, events[0]!.step], ["plan", 0]);
    assert.equal(events.find((e) => e.event === "switch")!.step, 3);
    assert.notEqual(
      await Deno.readTextFile(`${world}/again/plan.yaml`),
      await Deno.readTextFile(`${world}/plain/plan.yaml`),
    );
    assert.equal(metricsOf(`${world}/again`).length, 6);
    const without = (out: string) => {
      const { metrics, ...rest } = outcome(`${world}/${out}`) as { metrics: Record<string, unknown>[] };
      // What moves between devices belongs to the plan.
      return { ...rest, metrics: metrics.map(({ "reallocation/bytes": _, ...m }) => m) };
    };
    assert.deepEqual(without("again"), without("plain"));
    const report = await Deno.readTextFile(`${world}/again/report.html`);
    assert.match(report, /after step 3: planned again/);
  });
}
