/** What a traced expression may look like: the rules that the tracer guarantees and that every loaded graph is checked by. */
import { BINARY, type Expr, type ExprOp, SHAPE, type ShapeKind, UNARY } from "./expr.ts";
import type { Granularity } from "./field.ts";

type Recorded = Expr["ops"][number];

/** Granularity of each argument (a list: any of them), of the result, and the names of the attributes. */
const SHAPE_RULES: Readonly<
  Record<
    ShapeKind,
    {
      readonly args: readonly (readonly Granularity[])[];
      readonly per: Granularity;
      readonly attrs: readonly string[];
    }
  >
> = {
  sum: { args: [["token", "sequence", "pair"]], per: "batch", attrs: [] },
  mean: { args: [["token", "sequence", "pair"]], per: "batch", attrs: [] },
  sumPerSequence: { args: [["token"]], per: "sequence", attrs: [] },
  meanPerSequence: { args: [["token"]], per: "sequence", attrs: [] },
  last: { args: [["token"]], per: "sequence", attrs: [] },
  spread: { args: [["sequence"]], per: "token", attrs: [] },
  atEnd: { args: [["sequence"]], per: "token", attrs: [] },
  groupSum: { args: [["sequence"]], per: "sequence", attrs: [] },
  groupMean: { args: [["sequence"]], per: "sequence", attrs: [] },
  groupStd: { args: [["sequence"]], per: "sequence", attrs: ["unbiased", "eps"] },
  chosen: { args: [["sequence"]], per: "pair", attrs: [] },
  rejected: { args: [["sequence"]], per: "pair", attrs: [] },
  gae: { args: [["token"], ["token"], ["sequence"]], per: "token", attrs: ["gamma", "lambda"] },
};

const includes = <T extends string>(kinds: readonly T[], op: string): op is T =>
  (kinds as readonly string[]).includes(op);
export const argsOf = (op: ExprOp): readonly number[] => "args" in op ? op.args : [];

/** Every violation of the typing rules; an expression without any is well-formed. */
export function exprViolations(expr: Expr): string[] {
  const found: string[] = [];
  expr.ops.forEach((op, i) => {
    const wrong = (message: string) => found.push(`operation ${i} (${op.op}) ${message}`);
    const args = argsOf(op), bad = args.filter((a) => !Number.isInteger(a) || a < 0 || a >= i);
    if (bad.length) return wrong(`reads operation ${bad.join(", ")}, which is not before it`);
    const message = typeError(op, args.map((a) => expr.ops[a]!.per));
    if (message) wrong(message);
  });
  for (const [name, i] of Object.entries(expr.outputs)) {
    if (!Number.isInteger(i) || i < 0 || i >= expr.ops.length) {
      found.push(`output "${name}" names no operation`);
    }
  }
  return found;
}

function typeError(op: Recorded, args: readonly Granularity[]): string | null {
  if (op.op === "input") {
    return op.from === "state" && op.per !== "batch" ? `is a state and not per batch` : null;
  }
  if (op.op === "const") {
    if (!Number.isFinite(op.value)) return `is not finite`;
    return op.per === "batch" || op.per === "sequence" ? null : `is per ${op.per}`;
  }
  if (includes(SHAPE, op.op)) {
    const rule = SHAPE_RULES[op.op];
    const fits = args.length === rule.args.length && args.every((per, k) => rule.args[k]!.includes(per));
    if (!fits) {
      return `takes values per ${rule.args.map((a) => a.join("|")).join(", ")} and got ${
        args.join(", ") || "none"
      }`;
    }
    if (op.per !== rule.per) return `gives a value per ${rule.per}, not per ${op.per}`;
    const attrs = "attrs" in op ? Object.keys(op.attrs ?? {}).sort().join() : "";
    return attrs === [...rule.attrs].sort().join()
      ? null
      : `needs attributes ${rule.attrs.join(", ") || "none"}`;
  }
  const arity = includes(UNARY, op.op) ? 1 : includes(BINARY, op.op) ? 2 : op.op === "where" ? 3 : 0;
  if (arity === 0) return `is no known operation`;
  if (args.length !== arity) return `takes ${arity} values and got ${args.length}`;
  const fine = args.filter((per) => per !== "batch");
  if (new Set(fine).size > 1) return `mixes values per ${[...new Set(fine)].join(" and ")}`;
  const per = fine[0] ?? "batch";
  if (op.op === "where" && args[0] !== per) return `chooses per ${per} by a condition per ${args[0]}`;
  return op.per === per ? null : `gives a value per ${per}, not per ${op.per}`;
}

/** Beyond {@link exprViolations}: what `compute` may not do. */
export function computeViolations(expr: Expr): string[] {
  return expr.ops.flatMap((op, i) =>
    op.op === "input" && op.from === "model"
      ? [`operation ${i} reads "${op.field}" of a model, which only a loss has`]
      : []
  );
}

/**
 * Beyond {@link exprViolations}: a loss is one number of the mini-batch that depends on the model's outputs, and is linear
 * in the batch reductions, because those are complete only after the last micro-batch, when every gradient has already
 * been taken (DESIGN §3.3). Metrics are evaluated at the end and may use reductions as they like.
 */
export function lossViolations(expr: Expr): string[] {
  const found: string[] = [], loss = expr.outputs.loss;
  if (loss === undefined) return ["it has no output named loss"];
  for (const [name, i] of Object.entries(expr.outputs)) {
    const per = expr.ops[i]?.per;
    if (per !== "batch") found.push(`"${name}" is a value per ${per}, end it with mean() or sum()`);
  }
  const reduced = new Array<"none" | "linear" | "nonlinear">(), nowReaches: boolean[] = [];
  expr.ops.forEach((op, i) => {
    const args = argsOf(op), states = args.map((a) => reduced[a]!);
    nowReaches[i] = op.op === "input"
      ? op.from === "model"
      : op.op === "detach" || op.op === "lt" || op.op === "ge"
      ? false
      : (op.op === "where" ? args.slice(1) : args).some((a) => nowReaches[a]);
    if (op.per !== "batch" && states.some((s) => s !== "none")) {
      found.push(
        `operation ${i} (${op.op}) uses a mean() or sum() of the mini-batch in every ${op.per}, which is known only after ` +
          `the last micro-batch, move it to compute()`,
      );
    }
    reduced[i] = op.op === "sum" || op.op === "mean" ? "linear" : combine(op, states);
  });
  if (!nowReaches[loss]) {
    found.push("it does not depend on `now` (its gradient is zero everywhere), use the model's outputs");
  }
  if (reduced[loss] === "nonlinear") {
    found.push(
      "a mean() or sum() of the mini-batch enters it other than linearly, which micro-batches cannot reproduce, " +
        "move that to compute()",
    );
  }
  return found;
}

function combine(
  op: Recorded,
  states: readonly ("none" | "linear" | "nonlinear")[],
): "none" | "linear" | "nonlinear" {
  if (states.every((s) => s === "none")) return "none";
  if (states.includes("nonlinear")) return "nonlinear";
  const first = states[0]!, touched = states.filter((s) => s === "linear").length;
  const linear = op.op === "add" || op.op === "sub" || op.op === "neg" || op.op === "detach" ||
    (op.op === "mul" && touched === 1) || (op.op === "div" && touched === 1 && first === "linear") ||
    (op.op === "where" && first === "none");
  return linear ? "linear" : "nonlinear";
}
