/** The plan of a run that was given several devices and neither a plan nor a strategy: searched for, once for equal questions. */
import type { DataSizes } from "../compiler/programs.ts";
import type { DataSet } from "../engine/data.ts";
import { shortTime } from "../engine/table.ts";
import type { Gantt } from "../engine/timeline.ts";
import { canonical, digest, fnv1a } from "../ir/digest.ts";
import type { CallGraph } from "../ir/graph.ts";
import type { Cluster } from "../ir/plan.ts";
import { explain } from "../planner/explain.ts";
import { parsePlanFile, type PlanFile } from "../planner/plan_file.ts";
import type { Workload } from "../planner/workload.ts";
import { readProfile } from "./cluster.ts";
import type { LoadedModel } from "./models.ts";
import { predictedGantt } from "./plan_tables.ts";
import { planWorkflow } from "./planning.ts";

/** A plan, and what it promises. */
export interface AutoPlan {
  readonly file: PlanFile;
  /** "planned: 1.2 s per step, at most 4 % above any plan of the space …". */
  readonly line: string;
  /** Predicted seconds of a step, and of its calls. */
  readonly seconds: number;
  readonly calls: Readonly<Record<string, number>>;
  readonly gantt: Gantt;
}

/** By digest of the question. */
const known = new Map<string, AutoPlan>();
/** Points that are looked at: a run should not wait for its plan. */
const STEPS = 1500;
/** Lengths of prompts that are planned with. */
const QUANTILES = 16;

/** @throws RangeError that names what would make the workflow fit, when no plan does */
export async function autoPlan(
  graph: CallGraph,
  models: Readonly<Record<string, LoadedModel>>,
  { cluster, profile: name }: { readonly cluster: Cluster; readonly profile: string },
  sizes: DataSizes,
  data: DataSet,
): Promise<AutoPlan> {
  const profile = await readProfile(name, "a run"), workload = workloadOf(sizes, data);
  const configs = Object.fromEntries(
    Object.keys(graph.models).map((model) => [model, models[model]!.config]),
  );
  const joined = { ...cluster, links: profile.links };
  const key = fnv1a(canonical([digest(graph), joined, profile.name, workload, configs]));
  const found = known.get(key);
  if (found) return found;
  const planned = planWorkflow(graph, { cluster: joined, profile }, configs, workload, { steps: STEPS });
  const { seconds, gap, calls } = explain(planned.result);
  // The run's cluster has no links: they are the planner's.
  const plan = { ...planned.result.evaluator.plan(planned.result.best!), cluster };
  const made: AutoPlan = {
    file: parsePlanFile(JSON.parse(JSON.stringify(plan)), "the plan that was searched for"),
    line:
      `planned: ${shortTime(seconds)} per step predicted, at most ${
        (100 * gap).toFixed(0)
      } % above any plan; ` +
      `--plan or --strategy say it otherwise`,
    seconds,
    calls: Object.fromEntries(calls.map((c) => [c.id, c.seconds])),
    gantt: predictedGantt(planned),
  };
  known.set(key, made);
  return made;
}

/** Prompts as long as the data's; responses as long as they may be, for nobody knows them before. */
function workloadOf(sizes: DataSizes, data: DataSet): Workload {
  const lengths = data.training.flatMap(({ prompt, tokens }) =>
    prompt
      ? [prompt.ids.length]
      : typeof tokens === "object"
      ? [tokens.ids.length - tokens.actions.length]
      : []
  ).sort((a, b) => a - b);
  const at = (i: number) => Math.max(1, lengths[Math.floor((i + 0.5) * lengths.length / QUANTILES)] ?? 1);
  return {
    sizes,
    prompts: lengths.length
      ? Array.from({ length: QUANTILES }, (_, i) => at(i))
      : [Math.max(1, sizes.longest - sizes.longestResponse)],
    responses: [Math.max(1, sizes.longestResponse)],
    hostSeconds: {},
  };
}
