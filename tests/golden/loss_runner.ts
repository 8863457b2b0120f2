/** Runs traced arithmetic on a device: losses with their gradient by the model's output, and compute expressions. */
import { Binding, type Live } from "../../engine/binding.ts";
import type { Device } from "../../ffi/device.ts";
import { differentiate } from "../../compiler/autodiff.ts";
import { Builder } from "../../compiler/builder.ts";
import { compileCompute } from "../../compiler/compile.ts";
import { checkExpression, lower, ROWS } from "../../compiler/expression.ts";
import { finish } from "../../compiler/finish.ts";
import { NO_ROWS, reservedBytes } from "../../compiler/shape.ts";
import type { Expr } from "../../ir/expr.ts";
import type { Schema } from "../../ir/field.ts";
import type { Maxima } from "../../ir/op.ts";

export type Arrays = Readonly<Record<string, ArrayLike<number>>>;

const INTEGERS = ["actionEnds", "groupEnds"];
/** Writes inputs by name: fields without prefix, and counts and ends of the live dims. */
function writeInputs(binding: Binding, data: Arrays): void {
  for (const [name, values] of Object.entries(data)) {
    const array = INTEGERS.includes(name) ? Int32Array.from(values) : Float32Array.from(values);
    for (const port of [`inputs/${name}`, `inputs/field.${name}`, `inputs/state.${name}`]) {
      binding.offer(port, array);
    }
  }
}
const maximaOf = (live: Live): Maxima => ({ ...NO_ROWS, ...live });

/** A loss of `now` values, which are given instead of a model. Returns the outputs and the gradient of each. */
export async function runLoss(
  device: Device,
  expr: Expr,
  fields: Schema,
  now: Arrays,
  data: Arrays,
  live: Live,
) {
  checkExpression(expr, "loss", fields);
  const maxima = maximaOf(live), b = new Builder((v) => reservedBytes(v, maxima));
  const pers = new Map(
    expr.ops.flatMap((op) => op.op === "input" && op.from === "model" ? [[op.field, op.per] as const] : []),
  );
  const model = Object.fromEntries(
    [...pers].map(([name, per]) => [name, b.declare("params", name, [ROWS[per]])]),
  );
  const outputs = lower(b, expr, { model, reductions: "loss" });
  for (const [name, v] of Object.entries(outputs)) b.output(name, v);
  const gradients = new Map(Object.entries(model).map(([name, v]) => [v, b.declare("grads", name, v.shape)]));
  differentiate(b, outputs.loss!, gradients);
  const binding = new Binding(device, finish("loss", b, b.ops, { maxima }), {});
  try {
    binding.zero("grads");
    binding.zero("outputs");
    writeInputs(binding, data);
    for (const name of pers.keys()) binding.write(`params/${name}`, Float32Array.from(now[name]!));
    await binding.run(live);
    const scalar = (name: string) => binding.read(`outputs/${name}`, live)[0]!;
    return {
      outputs: Object.fromEntries(Object.keys(outputs).map((name) => [name, scalar(name)])),
      gradients: Object.fromEntries(
        [...pers.keys()].map((name) => [name, binding.read(`grads/${name}`, live)]),
      ),
    };
  } finally {
    binding.dispose();
  }
}

/** The outputs of a compute expression. */
export async function runCompute(device: Device, expr: Expr, fields: Schema, data: Arrays, live: Live) {
  const binding = new Binding(device, compileCompute(expr, { maxima: maximaOf(live), fields }), {});
  try {
    writeInputs(binding, data);
    await binding.run(live);
    return Object.fromEntries(
      Object.keys(expr.outputs).map((name) => [name, binding.read(`outputs/${name}`, live)]),
    );
  } finally {
    binding.dispose();
  }
}
