/** What notebooks show, without a kernel: drawings, tables, and a display that a run updates. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { curvesSvg } from "../../engine/curves_svg.ts";
import { ganttSvg } from "../../engine/gantt_svg.ts";
import type { SampleRecord } from "../../engine/metrics.ts";
import { samplesHtml } from "../../engine/samples_html.ts";
import { graphSvg } from "../../dsl/picture.ts";
import { Display, inKernel } from "../../run/kernel.ts";
import { NotebookProgress } from "../../run/notebook_progress.ts";
import { Samples } from "../../run/step.ts";
import { chain, ppo, randomStages } from "./dsl_fixtures.ts";

/** Tags open and close in order, and no number of the drawing is none. */
function wellFormed(markup: string): void {
  const open: string[] = [];
  for (const [, close, name, self] of markup.matchAll(/<(\/?)([a-z]+)(?:"[^"]*"|[^">])*?(\/?)>/g)) {
    if (close) assert.equal(open.pop(), name, markup);
    else if (!self) open.push(name!);
  }
  assert.deepEqual(open, []);
  assert.doesNotMatch(markup, /NaN|Infinity|undefined/);
}

Deno.test("graphSvg() draws every call once and every field between calls, without overlapping boxes", () => {
  const check = (graph: Parameters<typeof graphSvg>[0]) => {
    const svg = graphSvg(graph);
    wellFormed(svg);
    for (const { id } of graph.calls) assert.ok(svg.includes(`>${id}</text>`), id);
    const rects = [...svg.matchAll(/<rect x="([\d.-]+)" y="([\d.-]+)" width="([\d.]+)" height="30"/g)];
    const boxes = rects.map((m) => m.slice(1).map(Number) as [number, number, number]);
    assert.ok(boxes.length >= graph.calls.length);
    boxes.forEach(([x, y, width], i) =>
      boxes.slice(i + 1).forEach(([u, v, w]) =>
        assert.ok(x + width <= u || u + w <= x || y + 30 <= v || v + 30 <= y, "two boxes overlap")
      )
    );
    assert.equal(graphSvg(graph), svg, "the same graph has the same drawing");
  };
  check(ppo().graph);
  fc.assert(fc.property(randomStages, (stages) => check(chain(stages).graph)), { numRuns: 30 });
});

Deno.test("names from outside never become markup", () => {
  const evil = `<script>"x"</script>&`;
  const { graph } = ppo();
  const svg = graphSvg({ ...graph, name: evil, source: { ...graph.source, path: evil } });
  wellFormed(svg);
  const gantt = ganttSvg([{ label: evil, blocks: [{ name: evil, begin: 0, end: 1, detail: evil }] }], evil);
  wellFormed(gantt);
  const html = samplesHtml([
    sample({ prompt: evil, tokens: [evil], perToken: { [evil]: [1] }, scores: { [evil]: 1 } }),
  ]);
  for (const markup of [svg, gantt, html]) assert.doesNotMatch(markup, /<script|"x"/);
});

Deno.test("ganttSvg() draws blocks in proportion, and nothing but rows where there are none", () => {
  const block = (name: string, begin: number, end: number) => ({ name, begin, end, detail: "" });
  const svg = ganttSvg([{ label: "device 0", blocks: [block("a", 0, 3), block("b", 3, 4)] }], "time");
  const widths = [...svg.matchAll(/width="([\d.]+)" height="22" fill="#(?!f3)/g)].map((m) => Number(m[1]));
  assert.ok(Math.abs(widths[0]! - 3 * widths[1]!) < 0.5, String(widths));
  wellFormed(svg);
  wellFormed(ganttSvg([{ label: "device 0", blocks: [] }], ""));
});

Deno.test("curvesSvg() draws any metrics, holes and equal values included", () => {
  const value = fc.oneof(
    fc.double({ noDefaultInfinity: true, noNaN: true, min: -1e9, max: 1e9 }),
    fc.constant(3),
  );
  fc.assert(
    fc.property(
      fc.array(fc.dictionary(fc.constantFrom("reward", "a/loss", "klK3"), value), { maxLength: 300 }),
      (all) => {
        wellFormed(curvesSvg(all.map((metrics, i) => ({ step: i + 1, ...metrics }))));
      },
    ),
    { numRuns: 50 },
  );
  wellFormed(curvesSvg([{ step: 1, reward: 5e-324 }]));
  wellFormed(curvesSvg([{ step: 1, reward: null as never }, { step: 2, reward: 1 }]));
});

const sample = (change: Partial<SampleRecord> = {}): SampleRecord => ({
  step: 1,
  index: 0,
  prompt: "p",
  tokens: [" a", " b"],
  completion: " a b",
  weightVersion: 1,
  perToken: { logprobs: [-1, -2], advantages: [0.5, -1] },
  scores: { rewards: 1 },
  finished: true,
  ...change,
});

Deno.test("samples are coloured by what tells most, or by the field that is asked for", () => {
  const html = samplesHtml([sample()]);
  assert.match(html, /<span title="advantages 0\.5" style="background:rgb\(15 118 190 \/ 35%\)"> a<\/span>/);
  assert.match(html, /<span title="advantages -1" style="background:rgb\(217 83 25 \/ 70%\)"> b<\/span>/);
  const samples = new Samples([sample(), sample({ perToken: {} })]);
  const shown = (s: Samples) =>
    (s as unknown as Record<symbol, () => Record<string, string>>)[Symbol.for("Jupyter.display")]!();
  assert.match(
    shown(samples.by("logprobs", { rows: 1 }))["text/html"]!,
    /title="logprobs -2"[\s\S]*1 of 2 samples; tokens/,
  );
  assert.match(shown(samples)["text/plain"]!, /^p▸ a b\n {2}rewards 1/);
  assert.throws(
    () => samples.by("values"),
    /Cannot show samples by "values": they have logprobs, advantages per token/,
  );
  wellFormed(samplesHtml([]));
});

Deno.test("a display is shown once and then updated, in order; a kernel is known by its main module alone", async () => {
  const sent: [string, string][] = [], ids = new Set<unknown>();
  const display = new Display({
    broadcast: async (type, content) => {
      await new Promise((resolve) => setTimeout(resolve, 5 - sent.length));
      sent.push([type, (content["data"] as Record<string, string>)["text/plain"]!]);
      ids.add((content["transient"] as Record<string, unknown>)["display_id"]);
    },
  });
  for (const text of ["1", "2", "3"]) display.show({ "text/plain": text });
  await display.sent();
  assert.deepEqual(sent, [["display_data", "1"], ["update_display_data", "2"], ["update_display_data", "3"]]);
  assert.equal(ids.size, 1);
  assert.ok(inKernel("file:///home/me/$deno$jupyter_repl.mts"));
  assert.ok(!inKernel("file:///home/me/$deno$repl.mts") && !inKernel());
});

Deno.test("progress in a notebook draws the first step, not more often than a page can, and always the last", async () => {
  const texts: string[] = [];
  let now = 0;
  const display = new Display({
    broadcast: (_, content) =>
      Promise.resolve(void texts.push((content["data"] as Record<string, string>)["text/html"]!)),
  });
  const progress = new NotebookProgress(4, display, () => now);
  const step = (n: number) => progress.step({ step: n, metrics: { reward: n }, seconds: 1, tokens: 10 });
  for (let n = 1; n <= 3; n++) {
    now += 100;
    step(n);
  }
  await display.sent();
  assert.equal(texts.length, 1);
  step(4);
  progress.note("<done>");
  progress.stop();
  await display.sent();
  assert.match(texts[1]!, /<svg[\s\S]*step 4\/4/);
  assert.match(texts.at(-1)!, /&lt;done&gt;/);
});
