import assert from "node:assert/strict";
import { curveNames, renderReport, thinSamples } from "../../engine/report.ts";
import type { SampleRecord } from "../../engine/metrics.ts";

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
  assert.ok(!/@import|url\(/.test(page));
  assert.ok(
    page.includes("<h1>ppo &lt;try&gt;</h1>") && page.includes("a &amp; &quot;b&quot;") &&
      page.includes("<td>a&lt;b</td>"),
  );
  assert.ok(!page.includes("<b>prompt</b>") && page.match(/<\/script>/g)!.length === 2);
  assert.ok(page.includes("0.25 → 0.5"));
});

Deno.test("renderReport() shows a run without steps and samples", () => {
  const page = renderReport({ ...input, steps: [], samples: [] });
  assert.ok(page.includes("The run logged no samples"));
  assert.deepEqual(dataOf(page), { steps: [], metrics: [], samples: [] });
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
