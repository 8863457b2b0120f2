/** Lowers traced arithmetic (`ir/expr.ts`) to operations of a program. */
import { type Expr, GROUPWISE } from "../ir/expr.ts";
import { computeViolations, exprViolations, lossViolations } from "../ir/expr_rules.ts";
import type { Granularity, Schema } from "../ir/field.ts";
import { type Attr, dim, type Value } from "../ir/op.ts";
import type { Builder } from "./builder.ts";

export interface Lowering {
  /** Outputs of the model that is trained, by name; only a loss has them. */
  readonly model: Readonly<Record<string, Value>>;
  /**
   * `loss`: reductions continue over micro-batches in `outputs/sum.K` and count the mini-batch. `fold`: they are those sums,
   * read from `inputs/sum.K`, and nothing else but batch scalars is there. `compute`: over what the program gets.
   */
  readonly reductions: "loss" | "fold" | "compute";
}

/** Rows of a field by how many values it has. */
export const ROWS: Readonly<Record<Granularity, Attr>> = {
  token: dim("actions"),
  sequence: dim("sequences"),
  pair: dim("pairs"),
  batch: 1,
};

/**
 * Which neighbours a micro-batch must keep together for this loss: group operations need whole groups and pair operations
 * whole pairs, everything else is done sequence by sequence.
 */
export function keepsTogether(expr: Expr): "sequence" | "pair" | "group" {
  if (expr.ops.some((op) => GROUPWISE.includes(op.op))) return "group";
  return expr.ops.some((op) => op.per === "pair") ? "pair" : "sequence";
}

/**
 * @param fields types of the fields that the expression reads
 * @throws TypeError listing every rule that the expression breaks
 */
export function checkExpression(expr: Expr, what: "loss" | "compute", fields: Schema): void {
  const problems = exprViolations(expr);
  if (!problems.length) problems.push(...(what === "loss" ? lossViolations(expr) : computeViolations(expr)));
  for (const op of expr.ops) {
    if (op.op !== "input" || op.from !== "batch") continue;
    const type = fields[op.field];
    if (!type) problems.push(`it reads "${op.field}", which is no field`);
    else if (type.dtype !== "f32") {
      problems.push(`it reads "${op.field}", which is ${type.dtype} and not numbers`);
    } else if (type.per !== op.per) {
      problems.push(`it reads "${op.field}" per ${op.per}, which is per ${type.per}`);
    }
  }
  if (problems.length) {
    throw new TypeError(`Cannot trace ${what === "loss" ? "the loss" : "compute"}: ${problems.join("; ")}`);
  }
}

/** The value of every output of the expression. */
export function lower(b: Builder, expr: Expr, o: Lowering): Record<string, Value> {
  const values: (Value | undefined)[] = [];
  let sums = 0;
  const actionEnds = () => b.input("actionEnds", [dim("sequences")], "i32");
  const groupEnds = () => b.input("groupEnds", [dim("groups")], "i32");
  /** An argument with all its rows. */
  const full = (i: number, per: Granularity) => b.broadcast(values[i]!, [ROWS[per]]);

  const reduce = (x: Value | undefined, per: Granularity, mean: boolean): Value => {
    const name = `sum.${sums++}`;
    const sum = o.reductions === "fold"
      ? b.input(name, [1])
      : b.total(x!, o.reductions === "loss" ? b.declare("outputs", name, [1]) : undefined);
    if (!mean) return sum;
    // A step batch has no host count: its rows are counted in float32, exact up to 2²⁴ of them.
    const count = o.reductions === "compute" ? b.total(b.fill(1, x!.shape)) : b.input(`count.${per}`, [1]);
    return b.pointwise("div", sum, count);
  };
  const meanOver = (x: Value, ends: Value): Value => {
    const length = b.pointwise("max", b.segmentLength(ends), b.fill(1));
    return b.pointwise("div", b.segmentSum(x, ends), length);
  };
  /** Measured from the last sample of the group, so that equal samples have exactly their value as mean. */
  const groupMean = (x: Value): Value => {
    const ends = groupEnds(), last = b.detach(b.segmentLast(x, ends));
    const rest = b.pointwise("sub", x, b.segmentSpread(last, ends, ROWS.sequence));
    return b.segmentSpread(b.pointwise("add", last, meanOver(rest, ends)), ends, ROWS.sequence);
  };
  /** √(Σ(x − mean)² / n or n − 1) + eps; 0 + eps for a group of one. */
  const groupStd = (x: Value, unbiased: boolean, eps: number): Value => {
    const ends = groupEnds(), deviation = b.pointwise("sub", x, groupMean(x)), length = b.segmentLength(ends);
    const degrees = b.pointwise("max", unbiased ? b.pointwise("sub", length, b.fill(1)) : length, b.fill(1));
    const squares = b.segmentSum(b.pointwise("mul", deviation, deviation), ends);
    const std = b.pointwise("sqrt", b.pointwise("div", squares, degrees));
    return b.segmentSpread(eps ? b.pointwise("add", std, b.fill(eps)) : std, ends, ROWS.sequence);
  };

  for (const op of expr.ops) {
    values.push(o.reductions === "fold" && op.per !== "batch" ? undefined : lowerOne(op));
  }
  return Object.fromEntries(Object.entries(expr.outputs).map(([name, i]) => [name, values[i]!]));

  function lowerOne(op: Expr["ops"][number]): Value {
    switch (op.op) {
      case "input":
        if (op.from === "model") {
          const v = o.model[op.field];
          if (!v) {
            const offered = Object.keys(o.model).join(", ") || "nothing";
            throw new TypeError(
              `Cannot trace the loss: the model has no output "${op.field}", it has ${offered}`,
            );
          }
          return v;
        }
        return b.input(`${op.from === "batch" ? "field" : "state"}.${op.field}`, [ROWS[op.per]]);
      case "const":
        return b.fill(op.value, [ROWS[op.per]]);
      case "square":
        return b.pointwise("mul", values[op.args[0]]!, values[op.args[0]]!);
      case "detach":
        return b.detach(values[op.args[0]]!);
      case "sum":
      case "mean":
        return reduce(values[op.args[0]!], expr.ops[op.args[0]!]!.per, op.op === "mean");
      case "sumPerSequence":
        return b.segmentSum(full(op.args[0]!, "token"), actionEnds());
      case "meanPerSequence":
        return meanOver(full(op.args[0]!, "token"), actionEnds());
      case "last":
        return b.segmentLast(full(op.args[0]!, "token"), actionEnds());
      case "spread":
        return b.segmentSpread(full(op.args[0]!, "sequence"), actionEnds(), ROWS.token);
      case "atEnd":
        return b.segmentAtEnd(full(op.args[0]!, "sequence"), actionEnds(), ROWS.token);
      case "groupSum":
        return b.segmentSpread(
          b.segmentSum(full(op.args[0]!, "sequence"), groupEnds()),
          groupEnds(),
          ROWS.sequence,
        );
      case "groupMean":
        return groupMean(full(op.args[0]!, "sequence"));
      case "groupStd":
        return groupStd(full(op.args[0]!, "sequence"), op.attrs?.unbiased !== 0, op.attrs?.eps ?? 0);
      case "chosen":
      case "rejected":
        return b.strideGather(full(op.args[0]!, "sequence"), dim("pairs"), 2, op.op === "chosen" ? 0 : 1);
      case "gae":
        return b.gae(
          full(op.args[0]!, "token"),
          full(op.args[1]!, "token"),
          full(op.args[2]!, "sequence"),
          actionEnds(),
          {
            gamma: op.attrs!.gamma!,
            lambda: op.attrs!.lambda!,
          },
        );
      default:
        return b.pointwise(op.op, ...op.args.map((i) => values[i]!));
    }
  }
}
