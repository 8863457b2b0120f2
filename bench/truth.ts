/**
 * The planner's predictions against measured steps on virtual devices of this machine, one thread each:
 *
 *     deno task bench:truth [--profile FILE] [--devices 1,2] [--steps N] [--json]
 *
 * Measures a profile first unless one is given. At least 20 plans of a PPO and a GRPO step on one and on two devices; reported,
 * and no test: other programs that run meanwhile change what is measured.
 */
import process from "node:process";
import { parseArgs } from "node:util";
import { batchOf } from "../engine/batch.ts";
import { Devices } from "../engine/devices.ts";
import { table } from "../engine/table.ts";
import { printDevices, printStrategy } from "../ir/mesh.ts";
import type { Cluster } from "../ir/plan.ts";
import type { Workflow } from "../mod.ts";
import type { Unit } from "../planner/candidates.ts";
import { parsePlanFile } from "../planner/plan_file.ts";
import { parseProfile, type Profile } from "../planner/profile.ts";
import { meshAt, type Point } from "../planner/space.ts";
import { profileMachine } from "../run/profiling.ts";
import { benchSequences, benchStage, promptRows } from "./cases.ts";
import { median } from "./measure.ts";
import { CONFIG, grpo, ONE, type Plan, pointOf, ppo, PROMPT, truthInput, TWO } from "./truth_plans.ts";

const { values: flags } = parseArgs({
  options: {
    profile: { type: "string" },
    steps: { type: "string", default: "5" },
    devices: { type: "string", default: "1,2" },
    json: { type: "boolean", default: false },
  },
});

interface Row {
  readonly workflow: string;
  readonly devices: number;
  readonly plan: string;
  readonly predicted: number;
  readonly measured: number;
  /** Processor seconds of a step: what it would have taken on one device of a machine that does nothing else. */
  readonly busy: number;
  /** [predicted, measured] seconds by call. */
  readonly calls: Readonly<Record<string, readonly [number, number]>>;
}

async function rowsOf(
  make: () => Workflow,
  count: number,
  plans: readonly Plan[],
  profile: Profile,
): Promise<Row[]> {
  const flow = make(),
    { graph } = flow,
    { samples } = graph.calls.find((c) => c.kind === "generate")!.sampling;
  const { input, units, candidates, evaluator } = truthInput(graph, count, profile), rows: Row[] = [];
  const { cluster, workload: { sizes } } = input;
  for (const plan of plans) {
    const point = pointOf(plan, units, candidates, sizes.longest), { period } = evaluator.of(point);
    using devices = Devices.open({ count, threads: 1 });
    const file = parsePlanFile(JSON.parse(JSON.stringify(evaluator.plan(point))), "the bench");
    const stage = await benchStage(devices, flow, CONFIG, sizes, { devices: count, file });
    const prompts = promptRows(benchSequences(CONFIG, graph.source.batch, PROMPT)),
      walls: number[] = [],
      busy: number[] = [];
    const calls = new Map<string, number[]>();
    for (let step = 0; step <= Number(flags.steps); step++) {
      const start = performance.now(),
        used = process.cpuUsage(),
        { seconds } = await stage.step(step, batchOf(prompts, samples));
      if (step === 0) continue;
      const { user, system } = process.cpuUsage(used);
      walls.push((performance.now() - start) / 1000);
      busy.push((user + system) / 1e6);
      for (const [id, s] of Object.entries(seconds)) calls.set(id, [...calls.get(id) ?? [], s]);
    }
    stage.dispose();
    stage.engine.dispose();
    const predicted = new Map(
      units.flatMap((u, i) => u.calls.map((c, j) => [c.id, point.choices[i]!.candidate.costs[j]!.seconds])),
    );
    rows.push({
      workflow: graph.name,
      devices: count,
      plan: textOf(units, point, cluster),
      predicted: period,
      measured: median(walls),
      busy: median(busy),
      calls: Object.fromEntries(
        [...calls].map(([id, s]) => [id, [predicted.get(id) ?? 0, median(s)] as const]),
      ),
    });
  }
  return rows;
}

const textOf = (units: readonly Unit[], { choices }: Point, cluster: Cluster): string =>
  units.map((u, i) => {
    const c = choices[i]!, { strategy, recompute, microBatchTokens, zero } = c.candidate;
    const extra = [zero ? "zero" : "", recompute === "nothing" ? "" : recompute].filter(Boolean).join(" ");
    return `${u.id.replace(/(\w)\w*\.(\w)\w*/, "$1$2")} ${printStrategy(strategy)}@${
      printDevices(meshAt(c, cluster), cluster)
    } ${microBatchTokens}${extra ? ` ${extra}` : ""}`;
  }).join(", ");

const profileOf = async (count: number): Promise<Profile> =>
  flags.profile === undefined
    ? await profileMachine({ nodes: 1, perNode: count }, 1)
    : parseProfile(JSON.parse(await Deno.readTextFile(flags.profile)), flags.profile);

const rows: Row[] = [];
for (const [count, plans] of [[1, ONE], [2, TWO]] as const) {
  if (!flags.devices.split(",").includes(`${count}`)) continue;
  const profile = await profileOf(count);
  for (const make of [ppo, grpo]) rows.push(...await rowsOf(make, count, plans, profile));
}
const errors = rows.map((r) => Math.abs(r.predicted / r.measured - 1)),
  mean = errors.reduce((a, b) => a + b, 0) / errors.length;
// Pairs of plans of one workflow that are predicted to differ by a tenth.
const pairs = rows.flatMap((a, i) =>
  rows.slice(0, i).filter((b) => b.workflow === a.workflow).map((b) => [a, b] as const)
)
  .filter(([a, b]) => Math.abs(Math.log(a.predicted / b.predicted)) > Math.log(1.1));
const right = pairs.filter(([a, b]) => (a.predicted < b.predicted) === (a.measured < b.measured)).length;
if (flags.json) {
  console.log(JSON.stringify({ rows, mean, worst: Math.max(...errors), pairs: pairs.length, right }));
} else {
  const number = (x: number) => x.toFixed(3), align = "right" as const;
  console.log(table(
    [
      { title: "workflow" },
      { title: "devices", align },
      { title: "predicted", align },
      { title: "measured", align },
      { title: "busy", align },
      { title: "error", align },
      { title: "plan" },
    ],
    rows.map((
      r,
    ) => [
      r.workflow,
      `${r.devices}`,
      number(r.predicted),
      number(r.measured),
      number(r.busy),
      `${(100 * (r.predicted / r.measured - 1)).toFixed(1)} %`,
      r.plan,
    ]),
  ));
  for (const id of new Set(rows.flatMap((r) => Object.keys(r.calls)))) {
    const all = rows.flatMap((r) =>
      r.calls[id] && r.calls[id][0] > 0 ? [r.calls[id][0] / r.calls[id][1] - 1] : []
    );
    if (all.length) console.log(`${id}: ${(100 * median(all)).toFixed(0)} % in the median`);
  }
  console.log(
    `${rows.length} plans: mean error ${(100 * mean).toFixed(1)} %, worst ${
      (100 * Math.max(...errors)).toFixed(1)
    } %; ${right} of ${pairs.length} pairs in order`,
  );
}
