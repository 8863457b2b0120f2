/** Losses as a program run in float64 by the interpreter: value and gradient by each of the model's outputs. */
import assert from "node:assert/strict";
import { differentiate } from "../../compiler/autodiff.ts";
import { Builder } from "../../compiler/builder.ts";
import { lower, ROWS } from "../../compiler/expression.ts";
import { lowerOps } from "../../compiler/finish.ts";
import type { Expr } from "../../ir/expr.ts";
import { interpret, keyOf, type Memory } from "./compiler_interpreter.ts";
import type { Batch } from "./expr_evaluator.ts";

type Values = readonly number[];

/** The loss and its gradient by every output of the model that it uses. */
export function lossAndGradients(expr: Expr, data: Batch) {
  const { lengths, group = 1, model = {}, batch = {} } = data;
  const ends = lengths.map((_, i) => lengths.slice(0, i + 1).reduce((a, b) => a + b));
  const actions = ends.at(-1)!, sequences = lengths.length, pairs = sequences / 2;
  const given: Record<string, Values> = {
    actionEnds: ends,
    groupEnds: Array.from({ length: sequences / group }, (_, i) => (i + 1) * group),
    "count.token": [actions],
    "count.sequence": [sequences],
    "count.pair": [pairs],
    ...Object.fromEntries(Object.entries(batch).map(([name, values]) => [`field.${name}`, values])),
  };
  let offset = 0;
  const b = new Builder(() => (offset += 64, 64)), per = new Map<string, keyof typeof ROWS>();
  for (const op of expr.ops) if (op.op === "input" && op.from === "model") per.set(op.field, op.per);
  const now = Object.fromEntries(
    [...per].map(([name, rows]) => [name, b.declare("params", name, [ROWS[rows]])]),
  );
  const { loss, ...metrics } = lower(b, expr, { model: now, reductions: "loss" });
  b.output("loss", loss!);
  for (const [name, v] of Object.entries(metrics)) b.output(name, v);
  const gradients = Object.fromEntries(
    Object.entries(now).map(([name, v]) => [name, b.declare("grads", name, v.shape)]),
  );
  differentiate(b, loss!, new Map(Object.keys(now).map((name) => [now[name]!, gradients[name]!])));
  const memory: Memory = new Map();
  for (const name of Object.keys(now)) {
    memory.set(keyOf(now[name]!), Float64Array.from(model[name]!));
    memory.set(keyOf(gradients[name]!), new Float64Array(model[name]!.length));
  }
  for (const [port, v] of b.placed) {
    const name = port.replace("inputs/", "");
    if (port.startsWith("inputs/")) memory.set(keyOf(v), Float64Array.from(given[name] ?? assert.fail(name)));
    if (port.startsWith("outputs/sum.")) memory.set(keyOf(v), new Float64Array(1));
  }
  const live = { one: 1, tokens: 0, actions, sequences, groups: sequences / group, pairs, shard: 0 };
  interpret(lowerOps(b, b.ops), live, memory);
  return {
    loss: memory.get(keyOf(b.placed.get("outputs/loss")!))![0]!,
    gradients: Object.fromEntries(
      Object.entries(gradients).map(([name, v]) => [name, [...memory.get(keyOf(v))!]]),
    ),
  };
}

/** Compares every gradient with central differences of the loss; `still`: outputs of the model that it must not depend on. */
export function checkGradients(name: string, expr: Expr, data: Batch, still: readonly string[] = []): void {
  const { gradients } = lossAndGradients(expr, data), step = 1e-5;
  for (const [output, gradient] of Object.entries(gradients)) {
    const values = data.model![output]!;
    const moved = (i: number, d: number) =>
      lossAndGradients(expr, {
        ...data,
        model: { ...data.model, [output]: values.map((x, j) => j === i ? x + d : x) },
      }).loss;
    gradient.forEach((g, i) => {
      const difference = (moved(i, step) - moved(i, -step)) / (2 * step);
      assert.ok(
        Math.abs(g - difference) < 1e-7 * Math.max(1, Math.abs(g)),
        `${name} by ${output} [${i}]: ${g} and ${difference}`,
      );
    });
    assert.equal(gradient.every((g) => g === 0), still.includes(output), `${name} by ${output}`);
  }
}
