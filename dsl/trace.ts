/** Runs a script's function once over tensors and keeps what it did as an expression. */
import type { Expr } from "../ir/expr.ts";
import { computeViolations, lossViolations } from "../ir/expr_rules.ts";
import type { Granularity, Schema } from "../ir/field.ts";
import { checkName } from "./fields.ts";
import { at } from "./site.ts";
import { Tape, Tensor } from "./tensor.ts";

export type AnyTensor = Tensor<Granularity, string>;
/** A schema's fields as tensors of one trace. */
export type Symbols<S extends Schema, Of extends string> = {
  readonly [K in keyof S]: Tensor<S[K]["per"], Of>;
};

export interface TraceInput {
  /** For messages: `loss`, `compute "gae"`. */
  readonly what: string;
  readonly site: string | undefined;
  readonly batch: Schema;
  /** What the model makes now; only in a loss. */
  readonly model?: Schema;
  readonly states?: readonly string[];
}

interface Sources {
  readonly now: Readonly<Record<string, AnyTensor>>;
  readonly batch: Readonly<Record<string, AnyTensor>>;
  readonly state: Readonly<Record<string, AnyTensor>>;
}

/** The token field whose actions the per-token values of a schema belong to. */
export function tokenFieldOf(schema: Schema): string {
  return Object.values(schema).find((t) => t.per === "token")?.of ?? "tokens";
}

/** Throws a TypeError that lists what is wrong with the reads, the results, or the loss as a whole. */
export function trace(
  input: TraceInput,
  fn: (sources: Sources) => Readonly<Record<string, AnyTensor>>,
): Expr {
  const cannot = (problems: readonly string[]) =>
    new TypeError(`Cannot trace ${input.what}: ${problems.join("; ")}${at(input.site)}`);
  const problems = readProblems(input.batch);
  if (problems.length) throw cannot(problems);
  const tape = new Tape(tokenFieldOf(input.batch));
  const symbols = (schema: Schema, from: "model" | "batch" | "state") =>
    Object.fromEntries(
      Object.entries(schema).map((
        [field, { per }],
      ) => [field, new Tensor(tape, tape.push({ op: "input", field, from }, per), per)]),
    );
  const states = Object.fromEntries(
    (input.states ?? []).map((name) => [name, { per: "batch", dtype: "f32" } as const]),
  );
  const results = fn({
    now: symbols(input.model ?? {}, "model"),
    batch: symbols(input.batch, "batch"),
    state: symbols(states, "state"),
  });
  const wrong = resultProblems(tape, results);
  if (wrong.length) throw cannot(wrong);
  const expr = tape.expr(results);
  const violations = input.model ? lossViolations(expr) : computeViolations(expr);
  if (violations.length) throw cannot(violations);
  return expr;
}

function readProblems(schema: Schema): string[] {
  const fields = Object.entries(schema), problems: string[] = [];
  for (const [field, type] of fields) {
    checkName("field", field);
    if (type.dtype !== "f32") {
      problems.push(`field "${field}" is ${type.dtype} and only numbers can be traced, use score()`);
    }
  }
  const of = new Set(fields.flatMap(([, t]) => t.per === "token" ? [t.of ?? "tokens"] : []));
  if (of.size > 1) {
    problems.push(
      `it reads values of two token fields (${[...of].join(", ")}), which have different lengths`,
    );
  }
  return problems;
}

function resultProblems(tape: Tape, results: Readonly<Record<string, AnyTensor>>): string[] {
  if (
    results === null || typeof results !== "object" || results instanceof Tensor || results instanceof Promise
  ) {
    return ["the function must return its results by name, { field: tensor }, and not be async"];
  }
  const entries = Object.entries(results);
  if (entries.length === 0) return ["the function returns nothing, return a field or a state"];
  return entries.flatMap(([name, t]) => {
    if (!(t instanceof Tensor)) return [`"${name}" is not a tensor but ${typeof t}`];
    return t.isOn(tape) ? [] : [`"${name}" is a tensor of another trace, build it inside this function`];
  });
}
