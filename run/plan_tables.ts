/** A plan that was searched for, as tables and a timeline: for the terminal and for a page. */
import { renderReport, type ReportTable } from "../engine/report.ts";
import { shortBytes, shortNumber, shortTime } from "../engine/table.ts";
import type { Gantt } from "../engine/timeline.ts";
import { printGraph } from "../ir/print.ts";
import type { Instruction } from "../ir/plan.ts";
import { endOf } from "../planner/space.ts";
import type { Found } from "../planner/energy.ts";
import type { Explanation } from "../planner/explain.ts";
import { printPlan } from "../planner/plan_file.ts";
import type { Planned } from "./planning.ts";

const right = (title: string) => ({ title, align: "right" as const });
const percent = (share: number): string => `${(100 * share).toFixed(1)} %`;

/** One row for each call, each move of parameters, each baseline. */
export function planTables(e: Explanation): ReportTable[] {
  return [
    {
      title: "Plan",
      columns: [
        { title: "call" },
        { title: "devices" },
        { title: "layout" },
        right("micro-batch"),
        { title: "recompute" },
        right("seconds"),
        right("share"),
        right("bytes"),
      ],
      rows: e.calls.map((c) => [
        c.id,
        c.devices,
        `${c.layout}${c.assignment.zero ? " zero" : ""}${c.assignment.offload ? " offload" : ""}`,
        shortNumber(c.assignment.microBatchTokens),
        c.assignment.recompute,
        shortNumber(c.seconds),
        percent(c.share),
        shortBytes(c.bytes),
      ]),
    },
    ...e.moves.length
      ? [{
        title: "Moves of parameters",
        columns: [{ title: "move" }, right("seconds")],
        rows: e.moves.map((m) => [m.name, shortNumber(m.seconds)]),
      }]
      : [],
    {
      title: "Memory",
      columns: [
        { title: "from device" },
        right("models"),
        right("calls"),
        right("in turn"),
        right("other"),
        right("total"),
        right("of"),
      ],
      rows: fullest(e).map((m) => [
        String(m.device),
        ...[m.models, m.calls, m.pool, m.other, m.total, e.memoryBytes].map(shortBytes),
      ]),
    },
    {
      title: "Compared with",
      columns: [{ title: "plan" }, right("seconds"), right("speed-up")],
      rows: [
        ...e.baselines.map(({ name, seconds }) =>
          seconds === null
            ? [name, "does not fit", ""]
            : [name, shortNumber(seconds), `${(seconds / e.seconds).toFixed(2)}×`]
        ),
        ...e.runnerUp
          ? [[
            "runner-up",
            shortNumber(e.runnerUp.seconds),
            `${(e.runnerUp.seconds / e.seconds).toFixed(2)}×`,
          ]]
          : [],
      ],
    },
  ];
}

/** Stretches of devices that are shown at most. */
const STRETCHES = 16;

/** The fullest stretches, in the order of their devices. */
const fullest = ({ memory }: Explanation) =>
  memory.toSorted((a, b) => b.total - a.total).slice(0, STRETCHES).sort((a, b) => a.device - b.device);

/** Sentences below the tables. */
export function planRemarks(e: Explanation, { searchSeconds }: Pick<Planned, "searchSeconds">): string[] {
  return [
    `${shortTime(e.seconds)} per step, at most ${
      percent(e.gap)
    } above any plan of the space under this cost model (lower bound ${shortTime(e.bound)})`,
    `${e.exhaustive ? "every plan of the space" : `${e.evaluated} plans`} worked out in ${
      searchSeconds.toFixed(1)
    } s`,
    ...e.binding,
    ...e.runnerUp?.differences.length ? [`the runner-up has ${e.runnerUp.differences.join("; ")}`] : [],
  ];
}

/** Steps of the predicted timeline: what the second one shows is how steps follow one another. */
const STEPS = 2;

/** When every stretch of devices that work alike is busy with what. */
export function predictedGantt({ evaluation, choices }: Pick<Found, "evaluation" | "choices">): Gantt {
  const cuts = new Set(choices.flatMap((c) => [c.first, endOf(c)]));
  const firsts = [...cuts].sort((a, b) => a - b), ms = (seconds: number) => Math.round(1e6 * seconds) / 1e3;
  const blocksOf = (on: (i: Instruction) => boolean) =>
    Array.from({ length: STEPS }, (_, step) =>
      evaluation.schedule.step.flatMap((i, at) => {
        const { begin, end } = evaluation.spans[at]!, shift = step * evaluation.period;
        if (!on(i) || end <= begin) return [];
        const lane = i.op === "run" ? "call" as const : "reallocation" as const;
        const name = i.op === "run"
          ? i.call
          : i.op === "reallocate"
          ? `${i.from} → ${i.to}`
          : `${i.op} ${i.replica}`;
        return [{ lane, name, step: step + 1, begin: Math.max(0, ms(begin + shift)), end: ms(end + shift) }];
      })).flat().sort((a, b) => a.begin - b.begin);
  const rows = firsts.slice(0, -1).map((first, i) => {
    const last = firsts[i + 1]! - 1, label = first === last ? `device ${first}` : `${first}-${last}`;
    return {
      label,
      blocks: blocksOf(({ devices }) =>
        devices.length > 0 && devices[0]! <= first && first <= devices.at(-1)!
      ),
    };
  });
  const host = blocksOf(({ devices, op }) => op === "run" && devices.length === 0);
  return {
    steps: Array.from(
      { length: STEPS },
      (_, i) => ({ step: i + 1, begin: ms(i * evaluation.period), end: ms((i + 1) * evaluation.period) }),
    ),
    rows: host.length ? [...rows, { label: "host", blocks: host }] : rows,
  };
}

/** A self-contained page. */
export function planPage(planned: Planned, e: Explanation): string {
  const { input, result } = planned, { graph, cluster, profile } = input;
  return renderReport({
    name: `${graph.name}: plan`,
    planned: true,
    subtitle:
      `${
        cluster.nodes === 1 ? "1 node" : `${cluster.nodes} nodes`
      } with ${cluster.devicesPerNode} devices, ` +
      `profile ${profile.name}; ${planRemarks(e, planned)[0]}`,
    steps: [],
    samples: [],
    gantt: predictedGantt(result.best!),
    tables: planTables(e),
    texts: [
      { title: "Why", text: planRemarks(e, planned).join("\n") },
      { title: "Plan file", text: printPlan(result.evaluator.plan(result.best!)) },
      { title: "Call graph", text: printGraph(graph) },
    ],
  });
}
