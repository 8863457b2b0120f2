/** Whether the models and the data of a run can be cut as a plan says; with the plan's own specification in one error. */
import { layoutViolations } from "../compiler/layout.ts";
import type { ModelConfig } from "../compiler/models/config.ts";
import { together } from "../compiler/sizes.ts";
import { planViolations, refusePlan } from "../ir/check_plan.ts";
import { printStrategy } from "../ir/mesh.ts";
import type { CallGraph, ModelFunctionCall } from "../ir/graph.ts";
import type { ExecutionPlan } from "../ir/plan.ts";
import type { PlanSizes } from "./complete.ts";
import { located, type PlanFile } from "./plan_file.ts";

export interface CheckOptions {
  /** Ranks without a sequence are no fault: an evaluation ends with a batch of any size. */
  readonly idle?: boolean;
  /** What was found wrong before. */
  readonly also?: readonly string[];
  /** File that the plan comes from. */
  readonly file?: Pick<PlanFile, "origin" | "lines">;
}

/** @throws TypeError that lists every violation, of the plan's specification and of {@link layoutProblems} */
export function checkPlanFor(
  plan: ExecutionPlan,
  graph: CallGraph,
  configs: Readonly<Record<string, ModelConfig>>,
  sizes: PlanSizes,
  o: CheckOptions = {},
): void {
  const found = [...planViolations(plan, graph), ...layoutProblems(graph, plan, configs, sizes, o)];
  const all = [...o.also ?? [], ...found].map((sentence) => located(sentence, o.file?.lines));
  refusePlan(graph, all, o.file?.origin);
}

/** Every model that cannot be cut as a call wants it, and every call whose micro-batches or ranks do not fit the step. */
export function layoutProblems(
  graph: CallGraph,
  plan: ExecutionPlan,
  configs: Readonly<Record<string, ModelConfig>>,
  sizes: PlanSizes,
  { idle = false }: CheckOptions = {},
): string[] {
  const cuts = new Map<string, string[]>(), found: string[] = [];
  for (const call of graph.calls) {
    const a = "model" in call ? plan.assignments[call.id] : undefined;
    if (!("model" in call) || !a) continue;
    const { dp, tp, pp } = a.strategy;
    if ([tp, pp].every((n) => Number.isInteger(n) && n > 0)) {
      const sentences = layoutViolations(configs[call.model]!, a.strategy).map((v) => `"${call.model}" ${v}`);
      for (const sentence of sentences) cuts.set(sentence, [...cuts.get(sentence) ?? [], call.id]);
    }
    if (dp > sizes.sequences && !idle) {
      found.push(
        `${call.id} has ${printStrategy(a.strategy)} for a step of ${sizes.sequences} sequences, ` +
          `lower dp or raise the batch`,
      );
    }
    found.push(...microBatchProblems(call, a.microBatchTokens, sizes));
  }
  return [...[...cuts].map(([sentence, calls]) => `${calls.join(", ")}: ${sentence}`), ...found];
}

function microBatchProblems(
  call: ModelFunctionCall,
  tokens: number,
  { group, longest }: PlanSizes,
): string[] {
  const sequences = together(call, group);
  if (!(tokens > 0 && tokens < sequences * longest)) return [];
  const what = sequences === 1 ? "the longest sequence" : `${sequences} sequences that belong together`;
  return [
    `${call.id} has micro-batches of ${tokens} tokens and needs ${sequences * longest} for ${what}, ` +
    `raise microBatchTokens or leave it out`,
  ];
}
