/** Cluster files and `baton plan`: what a newcomer gives, and what comes of it. */
import assert from "node:assert/strict";
import { main } from "../../cli/main.ts";
import { parseConfig } from "../../compiler/models/config.ts";
import { adamw, conversations, models, policyModel, sft, workflow } from "../../dsl/mod.ts";
import { planGraph } from "../../planner/plan_graph.ts";
import { planViolations } from "../../ir/check_plan.ts";
import { readCluster } from "../../run/cluster.ts";
import { readPlanFile } from "../../run/plan_file.ts";
import { overlaid, predictionTable } from "../../run/predicted.ts";

const example = (path: string) => new URL(`../../examples/${path}`, import.meta.url).pathname;

async function baton(...args: string[]): Promise<{ code: number; out: string[]; err: string[] }> {
  const out: string[] = [], err: string[] = [];
  const code = await main(args, { out: (line) => out.push(line), err: (line) => err.push(line) });
  return { code, out, err };
}

async function written(text: string): Promise<string> {
  const path = await Deno.makeTempFile({ suffix: ".yaml" });
  await Deno.writeTextFile(path, text);
  return path;
}

Deno.test("the clusters of examples/cluster can be read, and say what their names say", async () => {
  const sizes: Record<string, number> = {};
  for await (const { name } of Deno.readDir(example("cluster"))) {
    const { cluster, profile } = await readCluster(example(`cluster/${name}`));
    sizes[name] = cluster.nodes * cluster.devicesPerNode;
    assert.ok(cluster.memoryBytes > 2 ** 30 && profile.tables.matmul && cluster.links.length);
  }
  assert.deepEqual(sizes, {
    "laptop.yaml": 2,
    "h100x8.yaml": 8,
    "a100x16.yaml": 16,
    "h100x128.yaml": 128,
    "h100x1024.yaml": 1024,
  });
});

Deno.test("readCluster() takes a data sheet, and refuses unequal nodes and unknown keys with what to do", async () => {
  const sheet =
    "profile: { name: L40S, teraflops: 362, memoryGBps: 864, memoryGiB: 44 }\ndevicesPerNode: [4, 4]\n" +
    "links: [{ devices: 4, microseconds: 10, GBps: 32 }]";
  const { cluster, profile } = await readCluster(await written(sheet));
  assert.deepEqual([cluster.nodes, cluster.devicesPerNode, profile.name], [2, 4, "L40S"]);
  const refused = async (text: string, message: RegExp) =>
    await assert.rejects(async () => await readCluster(await written(text)), { message });
  await refused(
    "profile: h100\ndevicesPerNode: [8, 4]",
    /^Cannot use .*: its nodes have 8, 4 devices, plan for those of one size/,
  );
  await refused("profile: h100\ndevicesPerNode: 8\ngpus: 3", /^Cannot use .*gpus.*, see examples\/cluster$/);
  await refused("profile: nope.json\ndevicesPerNode: 8", /^Cannot read profile nope\.json/);
  await refused(
    "profile: { name: x, teraflops: 1, memoryGBps: 1, memoryGiB: 1 }\ndevicesPerNode: 1",
    /says nothing of links/,
  );
});

Deno.test("baton plan prints tables, writes a plan that a run can follow, and a page with the predicted timeline", async () => {
  const folder = await Deno.makeTempDir(), plan = `${folder}/plan.yaml`, html = `${folder}/plan.html`;
  const args = [
    "plan",
    example("ppo.ts"),
    "--cluster",
    example("cluster/laptop.yaml"),
    "--prompt",
    "8,12",
    "--steps",
    "200",
  ];
  const { code, out } = await baton(...args, "-o", plan, "--html", html);
  assert.equal(code, 0);
  assert.match(
    out.join("\n"),
    /actor\.generate .*\n[\s\S]*Compared with[\s\S]*megatron[\s\S]*per step, at most [\d.]+ % above any plan/,
  );
  const file = await readPlanFile(plan);
  assert.deepEqual(file.cluster, { nodes: 1, devicesPerNode: 2 });
  assert.deepEqual(Object.keys(file.calls).sort(), [
    "actor.generate",
    "actor.train",
    "critic.infer",
    "critic.train",
    "ref.infer",
    "reward.infer",
  ]);
  assert.match(await Deno.readTextFile(html), /id="gantt"/);
  const { out: [line] } = await baton(...args, "--json"), { plan: whole, ...explained } = JSON.parse(line!);
  assert.ok(explained.seconds >= explained.bound && explained.calls.length === 6);
  const { default: workflow } = await import("../../examples/ppo.ts");
  assert.deepEqual(planViolations(whole, workflow.graph), []);
});

Deno.test("baton plan refuses what it cannot plan in one line", async () => {
  const args = ["plan", example("ppo.ts"), "--cluster", example("cluster/laptop.yaml")];
  const refused = async (code: number, message: RegExp, ...more: string[]) => {
    const result = await baton(...args, ...more);
    assert.deepEqual([result.code, result.out], [code, []]);
    assert.match(result.err[0]!, message);
  };
  await refused(1, /^error: Cannot plan ppo: it has no model "actr", name one of actor/, "--model", "actr=x");
  await refused(
    1,
    /^error: Cannot plan ppo: there is no file x\/config\.json/,
    "--model",
    "actor=x",
    "--model",
    "ref=x",
  );
  await refused(
    1,
    /^error: Cannot plan ppo: prompts of 9999 and responses of 16 tokens need 10015/,
    "--prompt",
    "9999",
  );
  await refused(2, /^error: Cannot run baton plan: --prompt is "a"/, "--prompt", "a");
  const { code, err } = await baton("plan", example("ppo.ts"));
  assert.equal(code, 2);
  assert.match(err[0]!, /--cluster is needed/);
});

Deno.test("a run's report shows what was predicted below what was measured, call by call", () => {
  const block = (begin: number, end: number, step: number) => ({
    lane: "call" as const,
    name: "actor.train",
    step,
    begin,
    end,
  });
  const measured = {
    steps: [{ step: 7, begin: 100, end: 120 }, { step: 8, begin: 125, end: 165 }],
    rows: [
      { label: "device 0", blocks: [block(110, 118, 7), block(135, 150, 8)] },
      { label: "device 1 (2)", blocks: [block(112, 120, 7)] },
      { label: "device 2", blocks: [] },
      { label: "host", blocks: [] },
    ],
  };
  const gantt = {
    steps: [{ step: 1, begin: 0, end: 50 }, { step: 2, begin: 50, end: 100 }],
    rows: [
      { label: "0-1", blocks: [block(10, 40, 1), block(60, 80, 2), block(80, 90, 2)] },
      { label: "device 2", blocks: [] },
      { label: "host", blocks: [] },
    ],
  };
  const { rows } = overlaid(measured, { gantt });
  assert.deepEqual(
    rows.map((row) => row.label),
    ["device 0", "device 1 (2)", "plan 0-1", "device 2", "plan 2", "host", "plan host"],
  );
  const detail = (predicted: number, rest: string) => ({
    predicted: true,
    detail: `predicted ${predicted} ms, measured ${rest}`,
  });
  assert.deepEqual(rows[2]!.blocks, [
    // Step 8 begins before step 7 was to end.
    { ...block(110, 125, 7), ...detail(20, "10 ms: +100 %") },
    { ...block(135, 155, 8), ...detail(20, "15 ms: +33 %") },
    { ...block(155, 165, 8), ...detail(10, "15 ms: -33 %") },
  ]);
  const steps = [{ step: 1, seconds: 9, "seconds/actor.train": 8 }, {
    step: 2,
    seconds: 2,
    "seconds/actor.train": 1,
  }];
  const [table] = predictionTable(steps, { seconds: 1, calls: { "actor.train": 1.1 } });
  assert.deepEqual(table!.rows, [["actor.train", "1.1", "1", "10 %"], ["step", "1", "2", "-50 %"]]);
});

Deno.test("what is wrong with a plan file is said with its name and the lines of its calls", async () => {
  const wrong = await written(
    "defaults: { zero: 0 }\ncalls:\n  m.train: { devices: 0-1, dp: 2 }\n  m.infer:\n    devices: x\n",
  );
  await assert.rejects(readPlanFile(wrong), ({ message }: Error) => {
    assert.match(
      message,
      /^Cannot use \S+\.yaml: line 4: m\.infer\.devices is "x", it must be a device or a range/,
    );
    return true;
  });
  const { m } = models({ m: policyModel("m", adamw({ lr: 1 })) });
  const { graph } = workflow({
    name: "w",
    data: conversations("d.jsonl", { batch: 4 }),
    flow: m.train(sft()),
  });
  const path = await written("calls:\n\n  m.train: { devices: 0-1, dp: 3 }\n  gone: { devices: 0 }\n");
  const config = parseConfig(
    JSON.parse(await Deno.readTextFile(example("models/couplets/config.json"))),
    "config.json",
  );
  const plan = {
    graph,
    configs: { m: config },
    cluster: { nodes: 1, devicesPerNode: 2, memoryBytes: 2 ** 30, links: [] },
    sizes: { sequences: 4, group: 1, longest: 8 },
    file: await readPlanFile(path),
  };
  assert.throws(() => planGraph(plan), ({ message }: Error) => {
    assert.ok(
      message.startsWith(`Cannot use ${path} for "w": line 3: m.train has 2 devices for dp 3`),
      message,
    );
    assert.match(message, /; line 4: "gone" is assigned and is no model function call of the graph$/);
    return true;
  });
});
