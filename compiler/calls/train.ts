/** Training: forward pass, a traced loss, and the gradients of a micro-batch added to those of the mini-batch. */
import type { Expr } from "../../ir/expr.ts";
import type { Schema } from "../../ir/field.ts";
import type { Head } from "../../ir/graph.ts";
import type { Maxima, Op, OpKind, Value } from "../../ir/op.ts";
import type { Assignment } from "../../ir/plan.ts";
import type { Program } from "../../ir/program.ts";
import { differentiate } from "../autodiff.ts";
import { Builder } from "../builder.ts";
import { checkExpression, lower } from "../expression.ts";
import { finish, named } from "../finish.ts";
import { type Sharing, sumsOnly, withSums } from "../gradient_sums.ts";
import type { Shard } from "../layout.ts";
import type { Model } from "../models/transformer.ts";
import { rematerialise } from "../rematerialise.ts";
import { reservedBytes } from "../shape.ts";
import { finishSplit } from "../split.ts";
import { headOutputs, type InferOptions, packedForward } from "./infer.ts";

export interface TrainOptions {
  readonly maxima: Maxima;
  /** Outputs `loss` and metrics, all per batch. */
  readonly loss: Expr;
  /** Types of the fields that the loss reads. */
  readonly fields: Schema;
  readonly recompute: Assignment["recompute"];
  readonly kept?: InferOptions["kept"];
  /**
   * Makes a closing program too where there is more than one data-parallel rank: the backward pass of a mini-batch's last micro-batch,
   * which sums gradients over ranks while it goes on. `bytes` of gradients at least are summed at once.
   */
  readonly sums?: Sharing & { readonly bytes?: number };
  /** Bytes of fence around every arena buffer, for tests. */
  readonly guard?: number;
}

/** What a head says about every sequence, whether the loss reads it or not. */
const ALWAYS: Readonly<Record<Head, string>> = { lm: "logprobs", value: "values", reward: "rewards" };
/**
 * Operations whose first result is large and little work; gathering is what makes a shard's norms as large as the whole's. What a
 * norm keeps beside it is small: where nothing else of it is read again (the norms of heads), nothing is made again.
 */
const CHEAP: readonly OpKind[] = ["rmsnorm", "swiglu", "allGatherRows"];

/** What a rank runs for a micro-batch. */
export interface RankTrain {
  /** Null on the last stage, whose `backward` is all of it: forward pass, loss, backward pass. */
  readonly forward: Program | null;
  readonly backward: Program;
  /** `backward`, in its memory, with the sums of gradients over ranks; null where these are left to the update. */
  readonly closing: Program | null;
}

/**
 * One micro-batch. The host zeroes `grads` and `outputs` before the first one of a mini-batch; gradients and `sum.K`
 * continue over micro-batches, and after the last one `compileFold` says what loss and metrics are.
 *
 * The stages of a pipeline before the last one hand on `outputs/y` and get `inputs/dy` back; those behind the first one read
 * `inputs/x` and give `outputs/dx`. Both programs of a stage work on the same segments; `saved` is what the backward pass needs.
 *
 * @throws TypeError when the loss breaks a rule of `ir/expr_rules.ts` or has no derivative
 */
export function compileTrain(shard: Shard, o: TrainOptions): RankTrain {
  checkExpression(o.loss, "loss", o.fields);
  const b = new Builder((v) => reservedBytes(v, o.maxima));
  const { x, layerInputs, model } = packedForward(b, shard, o.maxima), layers = new Set(b.ops);
  const result = shard.last ? lossOf(model, x, o) : x;
  if (!shard.last) b.output("y", x);

  const { forward, gradientOf } = differentiate(b, result, model.gradients(), {
    ...(!shard.last && { dy: b.input("dy", x.shape, x.dtype) }),
    wanted: shard.first ? [] : [layerInputs[0]!],
  });
  if (!shard.first) b.output("dx", gradientOf(layerInputs[0]!)!);
  const kept = new Set([...layerInputs, x]);
  const dropped = (op: Op, result: Value): boolean => {
    if (o.recompute === "nothing" || o.recompute === "logits" || !layers.has(op)) return false;
    if (o.recompute === "cheap") return CHEAP.includes(op.kind) && result === op.outs[0];
    return !op.outs.some((v) => kept.has(v));
  };
  const ops = rematerialise(b, b.ops, forward, dropped), name = named(`${shard.head} train`, shard);
  const { sums } = o, before = shard.last ? 0 : forward, backward = ops.slice(before);
  const closing = sums && sums.dp > 1
    ? { ops: withSums(b, shard, sums, backward, sums.bytes), unplanned: sumsOnly }
    : undefined;
  if (!shard.last) return finishSplit(name, b, [ops.slice(0, forward), backward], o, closing);
  return {
    forward: null,
    backward: finish(name, b, ops, o),
    closing: closing ? finish(`${name}, closing`, b, closing.ops, { ...o, ...closing }) : null,
  };
}

/** Records the loss; its metrics are left to the fold, and need their sums. */
function lossOf(model: Model, x: Value, { loss: expr, kept, recompute }: TrainOptions): Value {
  const { b, shard: { head } } = model;
  const read = expr.ops.flatMap((op) => op.op === "input" && op.from === "model" ? [op.field] : []);
  const wanted = [...new Set([ALWAYS[head], ...read])],
    outputs = headOutputs(model, x, wanted, { kept, keepLogits: recompute === "nothing" });
  b.scope = "loss";
  const { loss } = lower(b, expr, { model: outputs, reductions: "loss" });
  b.output(ALWAYS[head], outputs[ALWAYS[head]]!);
  b.scope = "";
  return loss!;
}
