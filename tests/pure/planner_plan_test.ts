import assert from "node:assert/strict";
import { parseConfig } from "../../compiler/models/config.ts";
import { parse } from "../../engine/yaml.ts";
import { planViolations } from "../../ir/check_plan.ts";
import { digest } from "../../ir/digest.ts";
import { printDevices, printStrategy } from "../../ir/mesh.ts";
import type { CallGraph } from "../../ir/graph.ts";
import { completePlan, type Layout } from "../../planner/complete.ts";
import { parsePlanFile } from "../../planner/plan_file.ts";
import { planGraph, type PlanInput } from "../../planner/plan_graph.ts";
import { TINY } from "./compiler_fixtures.ts";
import { ppo } from "./dsl_fixtures.ts";
import {
  adamw,
  bradleyTerry,
  models,
  policyLoss,
  policyModel,
  preferences,
  prompts,
  rewardModel,
  workflow,
} from "../../dsl/mod.ts";

const { actor, judge } = models({
  actor: policyModel("actor", adamw({ lr: 1e-3 })),
  judge: rewardModel("judge", adamw({ lr: 1e-3 })),
});
const tokenwise = policyLoss({}, (now) => now.logprobs.mean().neg());
const groupwise = policyLoss({}, (now) => now.logprobs.meanPerSequence().groupMean().mean().neg());
const sampled = (loss: typeof tokenwise) =>
  workflow({
    name: "grouped",
    data: prompts("p.jsonl", { batch: 4 }),
    flow: actor.generate({ maxNewTokens: 8, samples: 4 }).then(actor.train(loss, { minibatches: 2 })),
  }).graph;

const config = parseConfig(TINY, "config.json");
const cluster = (nodes: number, devicesPerNode: number) => ({
  nodes,
  devicesPerNode,
  memoryBytes: 2 ** 30,
  links: [],
});
/** Configs of a graph's models. */
const configsOf = (graph: CallGraph) =>
  Object.fromEntries(Object.keys(graph.models).map((name) => [name, config]));
const planned = (graph: CallGraph, o: Partial<PlanInput> = {}) =>
  planGraph({
    graph,
    configs: configsOf(graph),
    cluster: cluster(1, 1),
    sizes: { sequences: 16, group: graph.source.kind === "pairs" ? 2 : 4, longest: 2000 },
    ...o,
  });
const tokens = (graph: CallGraph, o: Partial<PlanInput> = {}) =>
  Object.fromEntries(
    Object.entries(planned(graph, o).assignments).map(([id, a]) => [id, a.microBatchTokens]),
  );

Deno.test("planGraph() keeps a group in one micro-batch only for a loss that compares its samples", () => {
  assert.deepEqual(tokens(sampled(tokenwise)), { "actor.generate": 4096, "actor.train": 4096 });
  assert.deepEqual(tokens(sampled(groupwise)), { "actor.generate": 4096, "actor.train": 8000 });
  const pairs = workflow({
    name: "pairs",
    data: preferences("p.jsonl", { batch: 4 }),
    flow: judge.train(bradleyTerry()),
  }).graph;
  assert.deepEqual(tokens(pairs, { microBatchTokens: 4000 }), { "judge.train": 4000 });
});

Deno.test("planGraph() takes a wish as it is, and refuses one that is too small with both numbers", () => {
  assert.deepEqual(tokens(sampled(tokenwise), { microBatchTokens: 2000 }), {
    "actor.generate": 2000,
    "actor.train": 2000,
  });
  assert.throws(() => planned(sampled(groupwise), { microBatchTokens: 1999 }), {
    name: "TypeError",
    message:
      'Cannot use this plan for "grouped": actor.generate has micro-batches of 1999 tokens and needs 2000 for ' +
      "the longest sequence, raise microBatchTokens or leave it out; actor.train has micro-batches of 1999 tokens and " +
      "needs 8000 for 4 sequences that belong together, raise microBatchTokens or leave it out",
  });
  // What another vocabulary makes of a text is an estimate: no wish is refused for it.
  const both = workflow({
    name: "judged",
    data: prompts("p.jsonl", { batch: 4 }),
    flow: actor.generate({ maxNewTokens: 8, samples: 4 }).then(judge.infer()),
  }).graph;
  assert.deepEqual(tokens(both, { microBatchTokens: 2000, reread: { judge: 8256 } }), {
    "actor.generate": 2000,
    "judge.infer": 8256,
  });
});

Deno.test("completePlan() cuts the share of one rank into at least two micro-batches a stage", () => {
  const graph = sampled(tokenwise);
  const usual = (dp: number, pp: number, longest: number) => {
    const mesh = { node: 0, nodes: 1, device: 0, devices: dp * pp },
      layout: Layout = { mesh, strategy: { dp, tp: 1, pp } };
    const { assignments } = completePlan({
      graph,
      digest: digest(graph),
      cluster: cluster(1, 16),
      sizes: { sequences: 64, group: 4, longest },
      layouts: { "actor.generate": layout, "actor.train": layout },
    });
    return [assignments["actor.generate"]!.microBatchTokens, assignments["actor.train"]!.microBatchTokens];
  };
  assert.deepEqual(usual(1, 1, 20), [1280, 1280]);
  assert.deepEqual(usual(4, 1, 20), [320, 320]);
  assert.deepEqual(usual(1, 1, 100), [4096, 4096]);
  // 64 sequences for 2 ranks with 2 stages: 4 micro-batches each, of half a step where there are two mini-batches.
  assert.deepEqual(usual(2, 2, 20), [160, 80]);
  // Never less than the longest sequence.
  assert.deepEqual(usual(2, 8, 500), [1000, 500]);
});

Deno.test("planGraph() spreads every call over all devices by data parallelism, as far as there are sequences", () => {
  const graph = sampled(tokenwise), plan = planned(graph, { cluster: cluster(2, 4) });
  assert.deepEqual(planViolations(plan, graph), []);
  for (const { mesh, strategy } of Object.values(plan.assignments)) {
    assert.deepEqual(mesh, { node: 0, nodes: 2, device: 0, devices: 4 });
    assert.deepEqual(strategy, { dp: 8, tp: 1, pp: 1 });
  }
  const few = { cluster: cluster(1, 8), sizes: { sequences: 4, group: 4, longest: 10 } };
  assert.throws(() => planned(graph, few), {
    name: "RangeError",
    message:
      "Cannot plan grouped: a step has 4 sequences for 8 devices, raise the batch or say with --strategy or " +
      "--plan how else to share them",
  });
  const wished = planned(graph, { ...few, strategy: { dp: 2, tp: 2, pp: 2 } });
  assert.deepEqual(wished.assignments["actor.train"]!.strategy, { dp: 2, tp: 2, pp: 2 });
  // An evaluation may leave devices without work.
  const held = planned(graph, { ...few, of: { graph, plan: wished } });
  assert.equal(held.assignments["actor.generate"]!.strategy.dp, 8);
});

const file = (value: object) => parsePlanFile(value, "plan.yaml");
const eight = { cluster: cluster(1, 8) };

Deno.test("planGraph() fills in what a file leaves out: other calls of a model, settings, micro-batches", () => {
  const graph = sampled(tokenwise);
  const { assignments } = planned(graph, {
    ...eight,
    recompute: "cheap",
    microBatchTokens: 9000,
    file: file({
      defaults: { microBatchTokens: 5000, zero: 1 },
      calls: {
        "actor.train": {
          devices: "4-7",
          dp: 2,
          pp: 2,
          microBatchTokens: 3000,
          recompute: "layers",
          offload: true,
        },
      },
    }),
  });
  const mesh = { node: 0, nodes: 1, device: 4, devices: 4 }, strategy = { dp: 2, tp: 1, pp: 2 };
  assert.deepEqual(assignments, {
    "actor.train": { mesh, strategy, microBatchTokens: 3000, zero: 1, recompute: "layers", offload: true },
    "actor.generate": { mesh, strategy, microBatchTokens: 5000, zero: 0, recompute: "cheap", offload: true },
  });
});

Deno.test("planGraph() gives a model's second train call the assignment of its first", () => {
  const { graph } = workflow({
    name: "twice",
    data: prompts("p.jsonl", { batch: 4 }),
    flow: actor.generate({ maxNewTokens: 8, samples: 4 }).then(
      actor.train(tokenwise),
      actor.train(groupwise),
    ),
  });
  const calls = { "actor.generate": { devices: 0 }, "actor.train": { devices: "0-1", dp: 2, zero: 1 } };
  const { assignments } = planned(graph, { ...eight, file: file({ calls }) });
  const { microBatchTokens: first, ...a } = assignments["actor.train"]!;
  const { microBatchTokens: second, ...b } = assignments["actor.train#2"]!;
  assert.deepEqual(b, a);
  assert.deepEqual([first, second], [4096, 8000]);
});

Deno.test("planGraph() lists everything that is wrong with a plan at once", () => {
  const { graph } = ppo();
  const wrong = file({
    graph: "0123456789abcdef",
    cluster: { nodes: 2, devicesPerNode: 4 },
    calls: {
      "actor.generate": { devices: "0-7", dp: 2, tp: 2 },
      "actor.train": { devices: "8-9", tp: 2 },
      "critic.infer": { devices: 0, zero: 1 },
      "reward.infer": { devices: "0-2", tp: 3 },
      "ref.infer": { devices: "0-3", pp: 4, microBatchTokens: 10 },
      "gea": { devices: 1 },
    },
  });
  assert.throws(() => planned(graph, { ...eight, file: wrong }), (error: Error) => {
    assert.match(error.message, /^Cannot use plan\.yaml for "ppo": /);
    const expected = [
      "it was made for 2 nodes × 4 devices and this run has 1 node × 8 devices, give --devices cpu:2x4",
      `it was made for graph 0123456789abcdef and this is ${digest(graph)}, plan again`,
      "actor.generate has 8 devices for dp 2 × tp 2 × pp 1",
      "actor.train uses devices 8-9 of 0-7",
      "critic.infer shards optimizer states and does not train",
      '"gea" is assigned and is no model function call of the graph',
      'ref.infer: "ref" has 2 stages more than its 2 layers',
      /reward\.infer: "reward" has tp 3, /,
      "ref.infer has micro-batches of 10 tokens and needs 2000 for the longest sequence",
    ];
    for (const part of expected) {
      assert.ok(
        typeof part === "string" ? error.message.includes(part) : part.test(error.message),
        `${part}: ${error.message}`,
      );
    }
    assert.equal(error.message.split("; ").length, expected.length);
    return error instanceof TypeError;
  });
  const idle = file({
    calls: Object.fromEntries(Object.values(graph.calls).map((c) => [c.id, { devices: "0-7", dp: 8 }])),
  });
  assert.throws(
    () => planned(graph, { ...eight, file: idle, sizes: { sequences: 4, group: 1, longest: 10 } }),
    /ref\.infer has dp8 for a step of 4 sequences, lower dp or raise the batch; /,
  );
});

Deno.test("planGraph() gives a call that a file does not name a layout only where there is one choice", () => {
  const twice = workflow({
    name: "twice",
    data: prompts("p.jsonl", { batch: 4 }),
    flow: actor.generate({ maxNewTokens: 8, samples: 4 }).then(
      actor.infer().as("again"),
      actor.train(tokenwise),
      judge.infer(),
    ),
  }).graph;
  const two = file({ calls: { "actor.generate": { devices: 0 }, "actor.train": { devices: 1 } } });
  assert.throws(() => planned(twice, { ...eight, file: two }), {
    message:
      'Cannot use plan.yaml for "twice": actor.infer has no assignment and actor.generate and actor.train lie ' +
      "differently, give it one; judge.infer has no assignment, give it one",
  });
});

Deno.test("planGraph() lets an evaluation run where the workflow runs, and a file name its own calls", () => {
  const all = ppo(), main = all.graph, held = all.evaluation!.graph;
  const ids = (graph: CallGraph) => graph.calls.filter((c) => "model" in c).map((c) => c.id);
  const calls = Object.fromEntries(ids(main).map((id, i) => [id, { devices: i }]));
  const plan = planned(main, { ...eight, file: file({ graph: digest(main), calls }) });
  const evaluation = planned(held, {
    ...eight,
    file: file({ graph: digest(main), calls }),
    of: { graph: main, plan },
  });
  assert.equal(evaluation.graph, digest(held));
  // The evaluation generates in another way than the workflow, where the workflow generates.
  const mesh = (device: number) => ({ node: 0, nodes: 1, device, devices: 1 });
  assert.deepEqual(
    Object.fromEntries(Object.entries(evaluation.assignments).map(([id, a]) => [id, a.mesh])),
    {
      "actor.generate#2": mesh(ids(main).indexOf("actor.generate")),
      "reward.infer#2": mesh(ids(main).indexOf("reward.infer")),
    },
  );
  const more = file({ calls: { ...calls, "judge.infer": { devices: 7 } } });
  assert.throws(
    () => planned(main, { ...eight, file: more }),
    /"judge\.infer" is assigned and is no model function/,
  );
  assert.ok(planned(main, { ...eight, file: more, evaluated: ["judge.infer"] }));
});

Deno.test("examples/plans/ppo_hand.yaml is a legal plan of six calls on eight devices for the couplet models", async () => {
  const root = new URL("../../examples/", import.meta.url),
    read = (path: string) => Deno.readTextFile(new URL(path, root));
  const { graph } = ppo(), models = { ...graph.models };
  const configs = Object.fromEntries(
    await Promise.all(
      Object.keys(models).map(async (name) => {
        const path = `models/${name === "reward" ? "couplets_reward" : "couplets"}/config.json`;
        return [name, parseConfig(JSON.parse(await read(path)), path)] as const;
      }),
    ),
  );
  const text = await read("plans/ppo_hand.yaml"), sizes = { sequences: 512, group: 1, longest: 48 };
  const plan = planGraph({
    graph,
    configs,
    ...eight,
    sizes,
    file: parsePlanFile(parse(text), "ppo_hand.yaml"),
  });
  const used = Object.entries(plan.assignments).map(([id, { mesh, strategy }]) =>
    `${id} ${printDevices(mesh, plan.cluster)} ${printStrategy(strategy)}`
  );
  assert.deepEqual(used, [
    "actor.generate 0-7 dp4·pp2",
    "critic.infer 0-1 dp2",
    "reward.infer 2-3 pp2",
    "ref.infer 4-7 dp2·pp2",
    "actor.train 0-3 dp2·pp2",
    "critic.train 4-7 dp2·pp2",
  ]);
  // The page shows the file.
  const page = await Deno.readTextFile(new URL("../docs/parallelism.md", root));
  assert.ok(page.includes(`\`\`\`yaml\n${text.replace(/^#.*\n/gm, "")}\`\`\``));
});
