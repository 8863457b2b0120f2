/**
 * Plans of large models on H100, as the table of docs/plans.md:
 *
 *     deno run -A bench/plans.ts [--only REGEX] [--longer] > docs/plans.md
 *
 * Needs no GPU: everything comes from `profiles/h100.json`. `--longer` compares with a search of ten times as many steps.
 */
import { cpuUsage } from "node:process";
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
  /** Processor time of the search: other programs do not count. */
  readonly seconds: number;
  /** By how much a search of ten times as many steps is faster, as a share. */
  readonly longer: number | null;
}

const LONGER = 60000;

function rowOf(cell: Cell, compare: boolean): Row {
  const input = inputOf(cell);
  const start = cpuUsage(), result = search(input), { user, system } = cpuUsage(start);
  const seconds = (user + system) / 1e6;
  if (result.best) {
    const { period } = result.best.evaluation,
      more = compare ? search(input, { steps: LONGER, enough: 0 }) : null;
    const longer = more && period / more.best!.evaluation.period - 1;
    return { cell, plan: explain(result), refused: "", seconds, longer };
  }
  const { missing, changes } = refusalOf(input, result);
  const refused = `lacks ${(missing / 2 ** 30).toFixed(0)} GiB a device; fits ${
    changes.map((c) => c.text).join(", or ") || "nowhere that was tried"
  }`;
  return { cell, plan: null, refused, seconds, longer: null };
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

function lineOf({ cell, plan, refused, seconds, longer }: Row): string {
  const head = `| ${cell.name} | ${cell.devices} |`;
  if (!plan) return `${head} ${refused} | | | | | | ${seconds.toFixed(1)} | | |`;
  const times = (name: string) => {
    const baseline = plan.baselines.find((b) => b.name === name)?.seconds ?? null;
    return baseline === null ? "–" : `${(baseline / plan.seconds).toFixed(2)}`;
  };
  const all = ["megatron", "data-parallel", "symmetric", "split"].map(times).join(" | ");
  return `${head} ${plan.seconds.toFixed(2)} | ${(100 * plan.gap).toFixed(1)} | ${all} | ${
    seconds.toFixed(1)
  } | ${longer === null ? "" : (100 * longer).toFixed(1)} | ${planText(plan, cell.devices)} |`;
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
  const longer = found.flatMap((r) => r.longer === null ? [] : [100 * r.longer]);
  return `Gap: median ${median(gaps).toFixed(1)} %, worst ${Math.max(...gaps).toFixed(1)} %. ` +
    (longer.length
      ? `Ten times as many steps: ${median(longer).toFixed(1)} % faster in the median, ${
        Math.max(...longer).toFixed(1)
      } % at most. `
      : "") +
    (gains.length
      ? `Over the Megatron-style heuristic where that fits (${gains.length} cells): ${
        (100 * mean).toFixed(0)
      } % faster on average, ${(100 * median(gains)).toFixed(0)} % in the median.`
      : "");
}

const { values } = parseArgs({
    options: { only: { type: "string", default: "" }, longer: { type: "boolean", default: false } },
  }),
  rows: Row[] = [];
for (const cell of CELLS.filter((c) => new RegExp(values.only).test(`${c.part} ${c.name} ${c.devices}`))) {
  const row = rowOf(cell, values.longer);
  rows.push(row);
  console.error(lineOf(row));
}
console.log(`# Plans of large models

Made by \`deno run -A bench/plans.ts\` from \`profiles/h100.json\`, 8 H100 in a node, in bf16 with fp32 gradients; nothing here was measured on GPUs. How to read
it is in [planner.md](planner.md#plans-of-large-models). Seconds are of a step; gap is to the lower bound, in per cent; the four columns behind it are how
many times longer a baseline takes ("–": it does not fit), then processor seconds of the search, by how many per cent a search of ten times as many
steps is faster, and the plan (@: devices, where not all).
`);
for (const part of new Set(rows.map((r) => r.cell.part))) {
  console.log(`## ${part}\n\n${summary(rows, part)}\n`);
  console.log(
    "| models | devices | seconds | gap | megatron | dp | symmetric | split | search | 10 × | plan |",
  );
  console.log("| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --- |");
  console.log(`${rows.filter((r) => r.cell.part === part).map(lineOf).join("\n")}\n`);
}
