import assert from "node:assert/strict";
import { curveNames, renderReport, thinSamples } from "../../engine/report.ts";
import type { SampleRecord } from "../../engine/metrics.ts";
import { operationTable, planTable, reallocationTable } from "../../engine/report_tables.ts";
import type { Gantt } from "../../engine/timeline.ts";
import { digest } from "../../ir/digest.ts";
import type { Assignment } from "../../ir/plan.ts";
import { ppo } from "./dsl_fixtures.ts";

const sample = (step: number, index: number): SampleRecord => ({
  step,
  index,
  prompt: "</script><b>prompt</b>",
  tokens: ["<x>", " y"],
  completion: " y",
  weightVersion: 0,
  perToken: { logprobs: [-1, -2] },
  scores: { rewards: 1 },
  finished: true,
});
const input = {
  name: "ppo <try>",
  subtitle: 'a & "b"',
  steps: [{ step: 1, reward: 0.25, rewardError: 0.1, "actor.loss": 2 }, {
    step: 2,
    reward: 0.5,
    rewardError: 0.1,
  }],
  samples: [sample(1, 0), sample(2, 1)],
  tables: [{
    title: "Plan",
    columns: [{ title: "call" }, { title: "s", align: "right" as const }],
    rows: [["a<b", "1"], ["total", "2"]],
  }],
  texts: [{ title: "Graph", text: "a -> b" }],
};
const dataOf = (page: string) =>
  JSON.parse(/<script type="application\/json" id="data">(.*)<\/script>/.exec(page)![1]!);

Deno.test("renderReport() embeds every curve with its standard error, reward first", () => {
  const { steps, metrics, samples } = dataOf(renderReport(input));
  assert.deepEqual(steps, [1, 2]);
  assert.deepEqual(metrics, [
    { name: "reward", first: true, values: [0.25, 0.5], errors: [0.1, 0.1] },
    { name: "actor.loss", first: false, values: [2, null] },
  ]);
  assert.deepEqual(samples, input.samples);
});

Deno.test("renderReport() needs nothing from elsewhere and lets no text become markup", () => {
  const page = renderReport(input);
  assert.ok(!/(src|href)="(?!#)/.test(page), "no outside resource");
  assert.ok(!/@import|url\((?!#)/.test(page));
  assert.ok(
    page.includes("<h1>ppo &lt;try&gt;</h1>") && page.includes("a &amp; &quot;b&quot;") &&
      page.includes("<td>a&lt;b</td>"),
  );
  assert.ok(!page.includes("<b>prompt</b>") && page.match(/<\/script>/g)!.length === 2);
  assert.ok(page.includes("0.25 → 0.5"));
});

const gantt: Gantt = {
  steps: [{ step: 2, begin: 0, end: 10 }],
  rows: [{
    label: "device 0",
    blocks: [{ lane: "call", name: "</script>actor", step: 2, begin: 0, end: 10, bytes: 4 }],
  }],
};

Deno.test("renderReport() shows the timeline of a run that has one, and no empty section of another", () => {
  const page = renderReport({ ...input, gantt });
  assert.deepEqual(dataOf(page).gantt, gantt);
  assert.ok(
    page.includes('<a href="#timeline">Timeline</a>') &&
      page.includes('<div class="chart gantt" id="gantt">'),
  );
  assert.equal(page.match(/<\/script>/g)!.length, 2);
  assert.ok(!/(src|href)="(?!#)/.test(page));
  for (const without of [renderReport(input), renderReport({ ...input, gantt: { steps: [], rows: [] } })]) {
    assert.ok(
      !without.includes('id="timeline"') && !without.includes("#timeline") && !("gantt" in dataOf(without)),
    );
  }
});

Deno.test("the style sheet has every colour that the timeline asks for, in light and dark", async () => {
  const read = (file: string) => Deno.readTextFile(new URL(`../../engine/report/${file}`, import.meta.url));
  const style = await read("style.css"),
    count = Number(/CALL_COLOURS = (\d+)/.exec(await read("gantt.js"))![1]);
  const names = [...Array.from({ length: count }, (_, i) => `call-${i}`), "reallocation", "transfer"];
  for (const name of names) assert.equal(style.match(new RegExp(`--${name}: #`, "g"))?.length, 2, name);
});

Deno.test("operationTable() adds up devices, most first, and is none where nothing was timed", () => {
  const spent = [{ all: 9e9, matmul: 3e9, rmsnorm: 1e9 }, { all: 2e9, rmsnorm: 0.5e9, copy: 0.5e9 }];
  const { title, rows } = operationTable(spent, false)!;
  assert.equal(title, "Time by operation");
  assert.deepEqual(rows, [["matmul", "3", "60.0 %"], ["rmsnorm", "1.5", "30.0 %"], [
    "copy",
    "0.5",
    "10.0 %",
  ]]);
  assert.match(operationTable(spent, true)!.title, /one execution of many/);
  assert.equal(operationTable([{ all: 0 }], true), null);
});

Deno.test("planTable() says where every call of the graph runs", () => {
  const { graph } = ppo();
  const a: Assignment = {
    mesh: { node: 1, nodes: 1, device: 0, devices: 4 },
    strategy: { dp: 2, tp: 1, pp: 2 },
    microBatchTokens: 4096,
    zero: 1,
    recompute: "layers",
    offload: false,
  };
  const { title, columns, rows } = planTable(graph, {
    version: 1,
    graph: digest(graph),
    cluster: { nodes: 2, devicesPerNode: 4, memoryBytes: 1, links: [] },
    assignments: {
      "actor.generate": { ...a, zero: 0 },
      "actor.train": a,
      "ref.infer": {
        ...a,
        mesh: { ...a.mesh, device: 3, devices: 1 },
        strategy: { dp: 1, tp: 1, pp: 1 },
        offload: true,
      },
    },
  });
  assert.deepEqual([title, columns.map((c) => c.title)], [
    "Plan",
    ["call", "devices", "dp·tp·pp", "micro-batch tokens", "ZeRO", "recompute"],
  ]);
  const row = (id: string) => rows.find(([call]) => call === id);
  assert.deepEqual(rows.map(([id]) => id), graph.calls.map((c) => c.id));
  assert.deepEqual(row("actor.generate"), ["actor.generate", "4-7", "2·1·2", "4,096", "", ""]);
  assert.deepEqual(row("actor.train"), ["actor.train", "4-7", "2·1·2", "4,096", "1", "layers"]);
  assert.deepEqual(row("ref.infer"), ["ref.infer", "7, else host", "1·1·1", "4,096", "", ""]);
  assert.deepEqual(row("gae"), ["gae", "where its fields are", "", "", "", ""]);
});

Deno.test("reallocationTable() gives bytes, the least that must move, time and bandwidth", () => {
  const { rows } = reallocationTable([
    {
      from: "actor@0",
      to: "actor@1",
      bytes: 3 * 2 ** 20,
      minimum: 2 ** 21,
      seconds: 0.002,
      most: 2 ** 20,
      times: 7,
    },
    { from: "ref@0", to: "ref@1", bytes: 0, minimum: 0, seconds: 0.0001, most: 0, times: 1 },
  ]);
  assert.deepEqual(rows, [
    ["actor@0 → actor@1", "3.00 MiB", "2.00 MiB", "1.00 MiB", "2 ms", "1.57", "7"],
    ["ref@0 → ref@1", "0 B", "0 B", "0 B", "0.1 ms", "", "1"],
  ]);
});

Deno.test("renderReport() shows a run without steps and samples", () => {
  const page = renderReport({ ...input, steps: [], samples: [] });
  assert.ok(page.includes("The run logged no samples"));
  assert.deepEqual(dataOf(page), { steps: [], metrics: [], samples: [] });
});

Deno.test("renderReport() of a plan has no curves, samples and figures of steps", () => {
  const gantt = { steps: [{ step: 1, begin: 0, end: 1 }], rows: [{ label: "device 0", blocks: [] }] };
  const page = renderReport({ ...input, steps: [], samples: [], planned: true, gantt });
  for (const absent of ['id="curves"', 'id="samples"', 'class="tile"', "timeline.json"]) {
    assert.ok(!page.includes(absent), absent);
  }
  assert.match(page, /<nav><a href="#timeline">Timeline<\/a><a href="#plan">/);
  assert.ok(page.includes('<h2 id="timeline">Predicted timeline</h2>'));
});

Deno.test("curveNames() leaves out standard errors of metrics but not metrics that end in Error", () => {
  assert.deepEqual(
    curveNames([{
      step: 1,
      "seconds/actor.train": 1,
      seconds: 2,
      zeta: 1,
      valueError: 2,
      klK3: 1,
      reward: 1,
      rewardError: 1,
    }]),
    [
      "reward",
      "klK3",
      "valueError",
      "zeta",
      "seconds",
      "seconds/actor.train",
    ],
  );
});

Deno.test("thinSamples() keeps whole steps, the first and the last among them", () => {
  const all = Array.from({ length: 100 }, (_, step) => [0, 1, 2, 3].map((i) => sample(step, i))).flat();
  const thin = thinSamples(all, 40);
  const steps = new Set(thin.map((s) => s.step));
  assert.ok(thin.length <= 40 && steps.has(0) && steps.has(99) && steps.size === 10);
  assert.ok([...steps].every((step) => thin.filter((s) => s.step === step).length === 4));
  assert.deepEqual(thinSamples(all, 400), all);
  assert.equal(thinSamples(all, 2).length, 2);
});
