/** Loss and metrics of a mini-batch, once the sums over all its micro-batches are known. */
import type { Expr } from "../../ir/expr.ts";
import type { Schema } from "../../ir/field.ts";
import type { Program } from "../../ir/program.ts";
import { Builder } from "../builder.ts";
import { checkExpression, lower } from "../expression.ts";
import { finish } from "../finish.ts";
import { NO_ROWS, reservedBytes } from "../shape.ts";

/**
 * `inputs/sum.K` (as train programs leave them in `outputs/sum.K`), `inputs/count.*`, `inputs/state.*` and fields per batch →
 * `outputs/loss` and `outputs/metric.NAME`.
 *
 * @param fields types of the fields that the loss reads
 * @throws TypeError when the loss breaks a rule of `ir/expr_rules.ts`
 */
export function compileFold(loss: Expr, fields: Schema): Program {
  checkExpression(loss, "loss", fields);
  const b = new Builder((v) => reservedBytes(v, NO_ROWS));
  for (const [name, v] of Object.entries(lower(b, loss, { model: {}, reductions: "fold" }))) {
    b.output(name === "loss" ? name : `metric.${name}`, v);
  }
  return finish("fold", b, b.ops, { maxima: NO_ROWS });
}
