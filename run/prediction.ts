/** What a plan of a run promises: seconds of a step and of its calls, who works when, and the lengths that it was told. */
import type { Gantt } from "../engine/timeline.ts";
import type { ExecutionPlan } from "../ir/plan.ts";
import type { CostInput } from "../planner/call_cost.ts";
import { predict } from "../planner/predict.ts";
import { mean } from "./lengths.ts";
import { predictedGantt } from "./plan_tables.ts";

export interface Prediction {
  /** What was asked. */
  readonly input: CostInput;
  /** Of a step, once steps follow one another evenly. */
  readonly seconds: number;
  /** Seconds by call. */
  readonly calls: Readonly<Record<string, number>>;
  /** Mean tokens. */
  readonly prompt: number;
  readonly response: number;
  readonly gantt: Gantt;
}

/** @param plan of the graph of `input`; its links are those of `input` */
export function predictionOf(input: CostInput, plan: ExecutionPlan): Prediction {
  const { point, evaluation, calls } = predict(input, plan), { prompts, responses } = input.workload;
  return {
    input,
    seconds: evaluation.period,
    calls,
    prompt: mean(prompts),
    response: mean(responses),
    gantt: predictedGantt({ evaluation, choices: point.choices }),
  };
}
