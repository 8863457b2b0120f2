/** The derivative rule of every differentiable operation, in the order of `OPCODE`. */
import { AXES, type Axis, type Op, type OpKind, type Value } from "../ir/op.ts";
import type { Part } from "./builder.ts";
import { differentiatePointwise } from "./derivatives_pointwise.ts";
import type { Backward, Rule } from "./rule.ts";
import { rowsOf, size } from "./shape.ts";

export const DERIVATIVES: Partial<Record<OpKind, Rule>> = {
  embedding({ b, op, dy, accumulate }) {
    const attrs = op.attrs.slice(0, 4), part = op.attrs.slice(4);
    accumulate(
      1,
      (prior, out) =>
        b.emit("embeddingGrad", [op.ins[0]!, dy, ...prior], [out], [...attrs, prior.length, ...part]),
    );
  },
  matmul({ b, op, dy, accumulate }) {
    const [x, w] = op.ins as [Value, Value], [rows, outputs, inputs, panels] = op.attrs;
    const attrs = (prior: readonly Value[]) => [rows!, outputs!, inputs!, prior.length, panels!];
    accumulate(1, (prior, out) => b.emit("matmulDw", [dy, x, ...prior], [out], attrs(prior)));
    accumulate(0, (prior, out) => b.emit("matmulDx", [dy, w, ...prior], [out], attrs(prior)));
  },
  addBias({ b, op, dy, add, accumulate }) {
    accumulate(1, (prior, out) => b.emit("columnSum", [dy, ...prior], [out], [...op.attrs, prior.length]));
    add(0, dy);
  },
  rmsnorm({ b, op, dy, accumulate }) {
    const [x, w] = op.ins as [Value, Value], rstd = op.outs[1]!, [rows, width] = op.attrs;
    const attrs = (prior: readonly Value[]) => [rows!, width!, prior.length];
    accumulate(1, (prior, out) => b.emit("rmsnormDw", [dy, x, rstd, ...prior], [out], attrs(prior)));
    accumulate(0, (prior, out) => b.emit("rmsnormDx", [dy, x, w, rstd, ...prior], [out], attrs(prior)));
  },
  rope: ({ b, op, dy, add }) => add(0, b.rope(dy, op.ins[1]!, op.ins[2]!, -(op.attrs[3] as number))),
  attention({ b, op, dy, add }) {
    const [q, k, v, ends] = op.ins as [Value, Value, Value, Value], [o, lse] = op.outs as [Value, Value];
    const gradients = [q, k, v].map((x) => like(b, x));
    b.emit("attentionGrad", [dy, q, k, v, o, lse, ends], gradients, op.attrs);
    gradients.forEach((g, i) => add(i, g));
  },
  swiglu({ b, op, dy, add }) {
    const gradients = op.ins.map((x) => like(b, x));
    b.emit("swigluGrad", [dy, ...op.ins], gradients, op.attrs);
    gradients.forEach((g, i) => add(i, g));
  },
  linearLogprob: (c) => differentiateLogprob(c, { first: 0, total: c.op.attrs[2] as number }),
  shardLogprob: (c) =>
    differentiateLogprob(c, { first: c.op.attrs[4] as number, total: c.op.attrs[5] as number }),
  gatherRows: ({ b, op, dy, accumulate }) =>
    accumulate(
      0,
      (prior, out) => b.emit("scatterRows", [dy, op.ins[1]!, ...prior], [out], [...op.attrs, prior.length]),
    ),
  pointwise: differentiatePointwise,
  segmentSum: ({ b, op, dy, add }) => add(0, b.segmentSpread(dy, op.ins[1]!, rowsOf(op.ins[0]!.shape))),
  segmentSpread: ({ b, op, dy, add }) => add(0, b.segmentSum(dy, op.ins[1]!)),
  segmentLast: ({ b, op, dy, add }) => add(0, b.segmentAtEnd(dy, op.ins[1]!, rowsOf(op.ins[0]!.shape))),
  segmentAtEnd: ({ b, op, dy, add }) => add(0, b.segmentLast(dy, op.ins[1]!)),
  total: ({ b, op, dy, add }) => add(0, b.broadcast(dy, op.ins[0]!.shape)),
  strideGather({ b, op, dy, add }) {
    const [, stride, phase] = op.attrs as [unknown, number, number];
    add(0, b.strideScatter(dy, op.ins[0]!.shape, stride, phase));
  },
  strideScatter({ b, op, dy, add }) {
    const [, stride, phase] = op.attrs as [unknown, number, number];
    add(0, b.strideGather(dy, size(op.ins[0]!.shape), stride, phase));
  },
  allGatherRows({ b, op, dy, add }) {
    const [x] = op.ins as [Value], axis = axisOf(op), own = rowsOf(x.shape);
    add(0, b.alike.has(op.outs[0]!) ? b.ownRows(dy, own, axis) : b.reduceScatterRows(dy, own, axis));
  },
  // Every rank goes on with the sum in the same way, so that its gradient is whole on every rank.
  allReduce: ({ dy, add }) => add(0, dy),
  reduceScatterRows: ({ b, op, dy, add }) =>
    add(0, b.allGatherRows(dy, rowsOf(op.ins[0]!.shape), axisOf(op))),
  keptLogits({ b, op, dy, accumulate, add }) {
    const [x, w, kept] = op.ins as [Value, Value, Value],
      attrs = op.attrs.slice(0, 4),
      part = op.attrs.slice(4);
    accumulate(
      1,
      (prior, out) =>
        b.emit("keptLogitsDw", [dy, x, kept, ...prior], [out], [...attrs, prior.length, ...part]),
    );
    const dx = like(b, x);
    b.emit("keptLogitsDx", [dy, w, kept], [dx], op.attrs);
    add(0, dx);
  },
  keptLogprob({ b, op, gradient, add }) {
    const [z, kept, targets, inverseTemperature] = op.ins as [Value, Value, Value, Value];
    const [logprobs, lse, entropy] = op.outs as [Value, Value, Value?], dEntropy = entropy && gradient(2);
    const dLogprobs = gradient(0) ?? b.fill(0, logprobs.shape);
    const ins = [dLogprobs, z, kept, targets, inverseTemperature, lse];
    const more = dEntropy ? [dEntropy, entropy] : [];
    const attrs = [...op.attrs.slice(0, 2), Number(dEntropy !== undefined)];
    add(0, b.one("keptLogprobGrad", [...ins, ...more], z.shape, attrs));
  },
};

/** A value for the gradient of x. */
const like = (b: Backward["b"], x: Value): Value => b.value(`d.${x.name}`, x.shape, { dtype: x.dtype });

const axisOf = (op: Op): Axis => AXES[op.attrs.at(-1) as number]!;

/** Of the rows of w that a rank has: its part of the sum over ranks for x, all of it for w. */
function differentiateLogprob({ b, op, gradient, wants, add, accumulate }: Backward, part: Part): void {
  const [x, w, targets, inverseTemperature] = op.ins as [Value, Value, Value, Value];
  const [logprobs, lse] = op.outs as [Value, Value], entropy = op.attrs[3] ? op.outs[2] : undefined;
  const [step, panels] = op.attrs.slice(-2) as [number, number], logits = op.outs[entropy ? 3 : 2];
  const dEntropy = entropy && gradient(2);
  const dLogprobs = gradient(0) ?? b.fill(0, logprobs.shape), dx = like(b, x);
  const ins = [dLogprobs, x, w, targets, inverseTemperature, lse, ...(dEntropy ? [dEntropy, entropy] : [])];
  if (step) ins.push(logits!);
  const sizes = op.attrs.slice(0, 3),
    more = [Number(dEntropy !== undefined), part.first, part.total, step, panels];
  // One kernel makes both gradients, since both are products with the gradients of the logits.
  if (!wants(1)) b.emit("linearLogprobDx", ins, [dx], [...sizes, ...more]);
  else {
    accumulate(
      1,
      (prior, dw) =>
        b.emit("linearLogprobGrad", [...ins, ...prior], [dx, dw], [...sizes, prior.length, ...more]),
    );
  }
  add(0, dx);
}
