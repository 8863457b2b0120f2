/** The plan of a run that was given several devices and neither a plan nor a strategy: searched for, once for equal questions. */
import { shortTime } from "../engine/table.ts";
import type { CostInput } from "../planner/call_cost.ts";
import { parsePlanFile, type PlanFile } from "../planner/plan_file.ts";
import { predict } from "../planner/predict.ts";
import type { SearchOptions } from "../planner/search.ts";
import { type CachedPlan, keepPlan, knownPlan } from "./plan_cache.ts";
import { planWorkflow } from "./planning.ts";

/** A plan, and how it was found. */
export interface AutoPlan {
  readonly file: PlanFile;
  /** Predicted seconds of a step. */
  readonly seconds: number;
  /** "planned: 1.2 s per step, at most 4 % above any plan of the space …". */
  readonly line: string;
}

/** Points that are looked at: a run should not wait for its plan. */
const OPTIONS: SearchOptions = { steps: 1500 };

/**
 * @param note told what a person should know of the cache
 * @throws RangeError that names what would make the workflow fit, when no plan does
 */
export async function autoPlan(input: CostInput, note: (line: string) => void): Promise<AutoPlan> {
  // What was measured is never the same again.
  const kept = !input.scales, known = kept ? await knownPlan(input, OPTIONS, note) : null;
  if (known) return answer(known, input, ", found before");
  const { graph, cluster, profile, configs, workload, scales } = input;
  const { result } = planWorkflow(graph, { cluster, profile }, configs, workload, {
    ...OPTIONS,
    fixed: true,
    ...scales && { scales },
  });
  const plan = result.evaluator.plan(result.best!), seconds = predict(input, plan).evaluation.period;
  const found = { plan, seconds, gap: result.best!.evaluation.period / result.bound.seconds - 1 };
  if (kept) await keepPlan(input, OPTIONS, found, note);
  return answer(found, input, "");
}

function answer({ plan, seconds, gap }: CachedPlan, { profile }: CostInput, how: string): AutoPlan {
  return {
    // As a file of `--plan`: one way into a run for all plans.
    file: parsePlanFile(JSON.parse(JSON.stringify(plan)), "the plan that was searched for"),
    seconds,
    line: `planned${how}: ${
      shortTime(seconds)
    } per step predicted with the profile of ${profile.name}, at most ${
      (100 * gap).toFixed(0)
    } % above any plan; --plan or --strategy say it otherwise`,
  };
}
