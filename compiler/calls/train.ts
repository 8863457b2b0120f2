/** Training: forward pass, a traced loss, and the gradients of a micro-batch added to those of the mini-batch. */
import type { Expr } from "../../ir/expr.ts";
import type { Schema } from "../../ir/field.ts";
import type { Head } from "../../ir/graph.ts";
import type { Maxima, Op } from "../../ir/op.ts";
import type { Assignment } from "../../ir/plan.ts";
import type { Program } from "../../ir/program.ts";
import { differentiate } from "../autodiff.ts";
import { Builder } from "../builder.ts";
import { checkExpression, lower } from "../expression.ts";
import { finish } from "../finish.ts";
import type { ModelConfig } from "../models/config.ts";
import { rematerialise } from "../rematerialise.ts";
import { reservedBytes } from "../shape.ts";
import { headOutputs, packedForward } from "./infer.ts";

export interface TrainOptions {
  readonly maxima: Maxima;
  /** Outputs `loss` and metrics, all per batch. */
  readonly loss: Expr;
  /** Types of the fields that the loss reads. */
  readonly fields: Schema;
  readonly recompute: Assignment["recompute"];
  /** Bytes of fence around every arena buffer, for tests. */
  readonly guard?: number;
}

/** What a head says about every sequence, whether the loss reads it or not. */
const ALWAYS: Readonly<Record<Head, string>> = { lm: "logprobs", value: "values", reward: "rewards" };

/**
 * One micro-batch. The host zeroes `grads` and `outputs` before the first one of a mini-batch; gradients and `sum.K`
 * continue over micro-batches, and after the last one `loss` and `metric.NAME` are those of the mini-batch.
 *
 * @throws TypeError when the loss breaks a rule of `ir/expr_rules.ts` or has no derivative
 */
export function compileTrain(config: ModelConfig, head: Head, o: TrainOptions): Program {
  checkExpression(o.loss, "loss", o.fields);
  const b = new Builder((v) => reservedBytes(v, o.maxima));
  const { x, layerInputs, model } = packedForward(b, config, head, o.maxima);
  const layers = new Set(b.ops);
  const read = o.loss.ops.flatMap((op) => op.op === "input" && op.from === "model" ? [op.field] : []);
  const outputs = headOutputs(model, x, [...new Set([ALWAYS[head], ...read])]);
  b.scope = "loss";
  const { loss, ...metrics } = lower(b, o.loss, { model: outputs, reductions: "loss" });
  b.output("loss", loss!);
  for (const [name, v] of Object.entries(metrics)) b.output(`metric.${name}`, v);
  b.output(ALWAYS[head], outputs[ALWAYS[head]]!);
  b.scope = "";

  const forwardOps = differentiate(b, loss!, model.gradients()), kept = new Set([...layerInputs, x]);
  const dropped = (op: Op): boolean => {
    if (o.recompute === "nothing" || !layers.has(op)) return false;
    return o.recompute === "cheap"
      ? op.kind === "rmsnorm" || op.kind === "swiglu"
      : !op.outs.some((v) => kept.has(v));
  };
  return finish(`${head} train`, b, rematerialise(b, b.ops, forwardOps, dropped), o);
}
