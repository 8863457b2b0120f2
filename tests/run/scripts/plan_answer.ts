/** A plan as text, from plain values. */
import type { CostInput } from "../../../planner/call_cost.ts";
import { explain } from "../../../planner/explain.ts";
import { search } from "../../../planner/search.ts";

export const answer = (input: CostInput): string => {
  const { calls, seconds, bound } = explain(search(input, { steps: 300 }));
  return JSON.stringify({ calls, seconds, bound });
};
