/** A parameter of a whole model, and how tensor parallelism cuts it. */
import { panelElements } from "../../ir/op.ts";
import type { Parameter } from "../../ir/program.ts";

/** What tensor parallelism cuts a parameter by, and along which dim: rows (outputs) or columns (inputs). */
export interface Cut {
  readonly by: "heads" | "kvHeads" | "intermediate" | "vocab";
  readonly dim: 0 | 1;
}
/** A parameter of a whole model. */
export interface ModelParameter extends Parameter {
  /** Null for what every rank of a tensor-parallel group has whole. */
  readonly cut: Cut | null;
}

/** Elements that a parameter takes in memory, panel padding included. */
export function storedElements(p: Pick<Parameter, "shape" | "layout">): number {
  const [n, k = 1] = p.shape as [number, number?];
  return p.layout === "panels" ? panelElements(n, k) : n * k;
}
