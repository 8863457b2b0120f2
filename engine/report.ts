/** report.html: one file that shows a run, from disk, without a network. */
import gantt from "./report/gantt.js" with { type: "text" };
import script from "./report/page.js" with { type: "text" };
import style from "./report/style.css" with { type: "text" };
import { replaceFile } from "./files.ts";
import { type ReportTable, tableHtml } from "./html.ts";
import { escape } from "../ir/markup.ts";
import type { SampleRecord, StepRecord } from "./metrics.ts";
import { shortNumber, shortTime } from "./table.ts";
import type { Gantt } from "./timeline.ts";

export type { ReportTable } from "./html.ts";

/** Text that is shown as it is: the call graph, the configuration. */
export interface ReportText {
  readonly title: string;
  readonly text: string;
}

export interface ReportInput {
  /** Name of the workflow. */
  readonly name: string;
  /** One line below it: models, data, machine. */
  readonly subtitle: string;
  readonly steps: readonly StepRecord[];
  readonly samples: readonly SampleRecord[];
  /** When the devices of the newest steps were busy with what; nothing is shown of a run without a step. */
  readonly gantt?: Gantt;
  /** Nothing has run: the page is about a plan, and its timeline is what that promises. */
  readonly planned?: boolean;
  /** Plan, memory, reallocations. */
  readonly tables: readonly ReportTable[];
  readonly texts: readonly ReportText[];
}

/** Samples embedded at most: more make a page that browsers open slowly. */
const SAMPLES = 400;
/** Metrics shown first, in this order; then come the others by name, and last those of the machine. */
const FIRST = ["reward", "evaluation/reward", "klK3", "klK1", "length", "truncated", "entropy"];
const MACHINE = /^(seconds|tokensPerSecond|tokens|mfu|reallocation)\b/;

/** Names that are no metric of the algorithm, and standard errors, which belong to their metric. */
const isCurve = (name: string, names: ReadonlySet<string>): boolean =>
  name !== "step" && !(name.endsWith("Error") && names.has(name.slice(0, -"Error".length)));

/** Names of the curves, the most telling ones first. */
export function curveNames(steps: readonly StepRecord[]): readonly string[] {
  const names = new Set(steps.flatMap((record) => Object.keys(record)));
  const rank = (name: string) =>
    FIRST.includes(name) ? FIRST.indexOf(name) : FIRST.length + (MACHINE.test(name) ? 1 : 0);
  return [...names].filter((name) => isCurve(name, names)).sort((a, b) =>
    rank(a) - rank(b) || (a < b ? -1 : 1)
  );
}

/** Whole steps spread evenly from the first to the last, so that at most `most` samples remain. */
export function thinSamples(samples: readonly SampleRecord[], most: number): readonly SampleRecord[] {
  if (samples.length <= most) return samples;
  const steps = [...new Set(samples.map((sample) => sample.step))].sort((a, b) => a - b);
  const kept = Math.max(1, Math.min(steps.length, Math.floor(most * steps.length / samples.length)));
  const chosen = new Set(
    Array.from(
      { length: kept },
      (_, i) => steps[Math.round((kept === 1 ? 1 : i / (kept - 1)) * (steps.length - 1))]!,
    ),
  );
  return samples.filter((sample) => chosen.has(sample.step)).slice(-most);
}

/** The page. */
export function renderReport(input: ReportInput): string {
  const { steps } = input;
  const curves = curveNames(steps).map((name, i) => ({
    name,
    first: i === 0,
    values: steps.map((record) => record[name] ?? null),
    ...(steps.some((record) => record[`${name}Error`] !== undefined) && {
      errors: steps.map((record) => record[`${name}Error`] ?? 0),
    }),
  }));
  const samples = thinSamples(input.samples, SAMPLES);
  const timeline = input.gantt?.rows.length ? { gantt: input.gantt } : {};
  const data = { steps: steps.map((record) => record.step), metrics: curves, samples, ...timeline };
  const has = (id: string) =>
    id === "timeline" ? "gantt" in timeline : !(input.planned && ["curves", "samples-heading"].includes(id));
  const sections = SECTIONS.filter(([id]) => has(id));
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(input.name)}</title>
<style>
${style}</style>
</head>
<body>
<h1>${escape(input.name)}</h1>
<p class="subtitle">${escape(input.subtitle)}</p>
<nav>${sections.map(([id, label]) => `<a href="#${id}">${label}</a>`).join("")}</nav>
${input.planned ? "" : stepsHtml(steps, samples.length, input.samples.length)}
${"gantt" in timeline ? timelineHtml(input.planned ?? false) : ""}
<h2 id="plan">Results and plan</h2>
${input.tables.map((t) => tableHtml(t)).join("\n")}
<h2 id="configuration">Configuration</h2>
${input.texts.map(textHtml).join("\n")}
<noscript><p>Curves and samples are drawn by a script in this page, which this browser does not run.</p></noscript>
<script type="application/json" id="data">${embed(data)}</script>
<script>
${script}${gantt}</script>
</body>
</html>
`;
}

/** Writes the page; a browser that reloads meanwhile sees the old one or the new one. */
export async function writeReport(path: string, input: ReportInput): Promise<void> {
  await replaceFile(path, renderReport(input));
}

const SAMPLE_CONTROLS = `<div class="controls">
<label>Step <select id="step"></select></label>
<label>Order <select id="order"></select></label>
<label>Colour by <select id="field"></select></label>
<span class="scale" id="scale"></span>
</div>`;

/** Figures, curves and samples of what has run. */
const stepsHtml = (steps: readonly StepRecord[], shown: number, logged: number): string =>
  `<div class="tiles">${tiles(steps).map(tile).join("")}</div>
<h2 id="curves">Curves</h2>
<div class="controls"><label>Smoothing <input id="smoothing" type="range" min="0" max="0.98" step="0.02" value="0.6"></label></div>
<div class="charts" id="charts"></div>
<h2 id="samples-heading">Samples</h2>
${shown > 0 ? SAMPLE_CONTROLS : '<p class="faint">The run logged no samples.</p>'}
${thinNote(shown, logged)}
<div id="samples"></div>`;

const timelineHtml = (planned: boolean): string =>
  `<h2 id="timeline">${planned ? "Predicted timeline" : "Timeline"}</h2>
<div class="chart gantt" id="gantt"></div>
<p class="faint">Percentages are the busy share of what is shown. Drag to look closer, double-click for all${
    planned ? "." : "; timeline.json opens in Perfetto."
  }</p>`;

const thinNote = (shown: number, all: number): string =>
  shown < all ? `<p class="faint">${shown} of ${all} logged samples; samples.jsonl has the others.</p>` : "";

const SECTIONS = [
  ["curves", "Curves"],
  ["samples-heading", "Samples"],
  ["timeline", "Timeline"],
  ["plan", "Results and plan"],
  ["configuration", "Configuration"],
] as const;

/** What the run came to, in a few numbers. */
function tiles(steps: readonly StepRecord[]): [label: string, value: string][] {
  // A number that was not finite is null in metrics.jsonl, and a record of an evaluation has its own metrics only.
  const valuesOf = (name: string) =>
    steps.map((record) => record[name]).filter((value) => typeof value === "number");
  const change = (label: string, name: string): [string, string][] => {
    const values = valuesOf(name);
    return values.length < 2 ? [] : [[label, `${shortNumber(values[0]!)} → ${shortNumber(values.at(-1)!)}`]];
  };
  const sum = (values: readonly number[]) => values.reduce((total, value) => total + value, 0);
  const seconds = sum(valuesOf("seconds")), speeds = valuesOf("tokensPerSecond");
  return [
    ["steps", shortNumber(steps.at(-1)?.step ?? 0)],
    ...change("reward", "reward"),
    ...change("KL from the reference", "klK3"),
    ...change("response tokens", "length"),
    ...(seconds > 0 ? [["time in steps", shortTime(seconds)] as [string, string]] : []),
    ...(speeds.length > 0
      ? [["tokens per second", shortNumber(Math.round(sum(speeds) / speeds.length))] as [string, string]]
      : []),
  ];
}

const tile = ([label, value]: readonly [string, string]): string =>
  `<div class="tile"><b>${escape(value)}</b><span>${escape(label)}</span></div>`;

const textHtml = ({ title, text }: ReportText): string =>
  `<details open><summary>${escape(title)}</summary><pre>${escape(text)}</pre></details>`;

/** JSON inside a script element ends at the first "</script": no "<" may appear in it. */
const embed = (value: unknown): string => JSON.stringify(value).replaceAll("<", "\\u003c");
