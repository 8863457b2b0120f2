/**
 * Plans of large models on H100, as the table of docs/plans.md:
 *
 *     deno run -A bench/plans.ts [--only REGEX] > docs/plans.md
 *
 * Needs no GPU: everything comes from `profiles/h100.json`.
 */
import { parseArgs } from "node:util";
import { printStrategy } from "../ir/mesh.ts";
import { explain, type Explanation } from "../planner/explain.ts";
import { refusalOf } from "../planner/refusal.ts";
import { search } from "../planner/search.ts";
import { type Cell, CELLS, inputOf } from "./plan_cells.ts";

interface Row {
  readonly cell: Cell;
  readonly plan: Explanation | null;
  readonly refused: string;
  readonly seconds: number;
}

function rowOf(cell: Cell): Row {
  const input = inputOf(cell);
  const start = performance.now(), result = search(input), seconds = (performance.now() - start) / 1000;
  if (result.best) return { cell, plan: explain(result), refused: "", seconds };
  const { missing, changes } = refusalOf(input, result);
  const refused = `lacks ${(missing / 2 ** 30).toFixed(0)} GiB a device; fits ${
    changes.map((c) => c.text).join(", or ") || "nowhere that was tried"
  }`;
  return { cell, plan: null, refused, seconds };
}

/** "dp8 0-7": layouts of the calls, those on all devices without their range. */
function planText({ calls }: Explanation, devices: number): string {
  return calls.map((c) => {
    const short = c.id.replace("generate", "gen").replace("infer", "inf");
    return `${short} ${printStrategy(c.assignment.strategy)}${
      c.devices === `0-${devices - 1}` ? "" : ` @${c.devices}`
    }`;
  }).join(", ");
}

function lineOf({ cell, plan, refused, seconds }: Row): string {
  const head = `| ${cell.name} | ${cell.devices} |`;
  if (!plan) return `${head} ${refused} | | | | | | ${seconds.toFixed(1)} | |`;
  const times = (name: string) => {
    const baseline = plan.baselines.find((b) => b.name === name)?.seconds ?? null;
    return baseline === null ? "–" : `${(baseline / plan.seconds).toFixed(2)}`;
  };
  const all = ["megatron", "data-parallel", "symmetric", "split"].map(times).join(" | ");
  return `${head} ${plan.seconds.toFixed(2)} | ${(100 * plan.gap).toFixed(1)} | ${all} | ${
    seconds.toFixed(1)
  } | ${planText(plan, cell.devices)} |`;
}

const median = (xs: readonly number[]) => xs.toSorted((a, b) => a - b)[xs.length >> 1]!;

function summary(rows: readonly Row[], part: string): string {
  const found = rows.filter((r) => r.plan && r.cell.part === part);
  if (!found.length) return "";
  const gains = found.flatMap(({ plan }) => {
    const seconds = plan!.baselines.find((b) => b.name === "megatron")?.seconds ?? null;
    return seconds === null ? [] : [seconds / plan!.seconds - 1];
  });
  const gaps = found.map((r) => 100 * r.plan!.gap), mean = gains.reduce((a, b) => a + b, 0) / gains.length;
  return `Gap: median ${median(gaps).toFixed(1)} %, worst ${Math.max(...gaps).toFixed(1)} %. ` +
    (gains.length
      ? `Over the Megatron-style heuristic where that fits (${gains.length} cells): ${
        (100 * mean).toFixed(0)
      } % faster on average, ${(100 * median(gains)).toFixed(0)} % in the median.`
      : "");
}

const { values } = parseArgs({ options: { only: { type: "string", default: "" } } }), rows: Row[] = [];
for (const cell of CELLS.filter((c) => new RegExp(values.only).test(`${c.part} ${c.name} ${c.devices}`))) {
  const row = rowOf(cell);
  rows.push(row);
  console.error(lineOf(row));
}
console.log(`# Plans of large models

Made by \`deno run -A bench/plans.ts\` from \`profiles/h100.json\`, 8 H100 in a node; nothing here was measured on GPUs. How to read
it is in [planner.md](planner.md#plans-of-large-models). Seconds are of a step; gap is to the lower bound, in per cent; the four columns behind it are how
many times longer a baseline takes ("–": it does not fit), then seconds of the search, then the plan (@: devices, where not all).
`);
for (const part of new Set(rows.map((r) => r.cell.part))) {
  console.log(`## ${part}\n\n${summary(rows, part)}\n`);
  console.log("| models | devices | seconds | gap | megatron | dp | symmetric | split | search | plan |");
  console.log("| --- | --: | --: | --: | --: | --: | --: | --: | --: | --- |");
  console.log(`${rows.filter((r) => r.cell.part === part).map(lineOf).join("\n")}\n`);
}
