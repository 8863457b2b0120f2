/** Compute: traced arithmetic over a whole step batch. */
import type { Expr } from "../../ir/expr.ts";
import type { Schema } from "../../ir/field.ts";
import type { Maxima } from "../../ir/op.ts";
import type { Program } from "../../ir/program.ts";
import { Builder } from "../builder.ts";
import { checkExpression, lower } from "../expression.ts";
import { finish } from "../finish.ts";
import { reservedBytes } from "../shape.ts";

export interface ComputeOptions {
  readonly maxima: Maxima;
  /** Types of the fields that the expression reads. */
  readonly fields: Schema;
  /** Bytes of fence around every arena buffer, for tests. */
  readonly guard?: number;
}

/**
 * `inputs/field.NAME` and `inputs/state.NAME` → `outputs/NAME` for every output of the expression.
 *
 * @throws TypeError when the expression breaks a rule of `ir/expr_rules.ts`
 */
export function compileCompute(expr: Expr, o: ComputeOptions): Program {
  checkExpression(expr, "compute", o.fields);
  const b = new Builder((v) => reservedBytes(v, o.maxima));
  for (const [name, v] of Object.entries(lower(b, expr, { model: {}, reductions: "compute" }))) {
    b.output(name, v);
  }
  return finish("compute", b, b.ops, o);
}
