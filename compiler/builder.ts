/** The shape rule of every operation; its derivative is in `derivatives.ts`. */
import {
  type Attr,
  type Dim,
  dim,
  type FloatType,
  logitsStep,
  POINTWISE,
  type PointwiseKind,
  type Shape,
  type Value,
} from "../ir/op.ts";
import { axisNumber, Collectives } from "./collectives.ts";
import { resultType } from "./dtypes.ts";
import { isScalar, rowsOf, sameDim, sameSize, show, size, widthOf } from "./shape.ts";

/** A matrix parameter: N outputs, K inputs, and how its elements lie in memory (`ir/op.ts`). */
export interface Weight {
  readonly value: Value;
  readonly outputs: number;
  readonly inputs: number;
  readonly panels: boolean;
}
/** Heads of an attention operation. */
export interface Heads {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Keys that a query sees, itself included; 0 is all. */
  readonly window: number;
}
/** Where the rows of a matrix lie in the whole that ranks of an axis share. */
export interface Part {
  readonly first: number;
  readonly total: number;
}

const whole = (w: Weight): Part => ({ first: 0, total: w.outputs });

export class Builder extends Collectives {
  /** ids → rows of w: [rows, inputs of w]; zeros for ids outside `part`, of which w is the rows. */
  embedding(ids: Value, w: Weight, part: Part = whole(w)): Value {
    const rows = rowsOf(ids.shape), attrs = [rows, w.outputs, w.inputs, Number(w.panels)];
    return this.one("embedding", [ids, w.value], [rows, w.inputs], [...attrs, part.first, part.total]);
  }

  /** x[M, K] · wᵀ → [M, N], stored as x is unless told otherwise. */
  matmul(x: Value, w: Weight, dtype: FloatType = x.dtype as FloatType): Value {
    this.#checkProduct(x, w);
    const rows = rowsOf(x.shape), attrs = [rows, w.outputs, w.inputs, Number(w.panels), 0];
    return this.one("matmul", [x, w.value], [rows, w.outputs], attrs, dtype);
  }

  addBias(x: Value, bias: Value): Value {
    const width = widthOf(x.shape);
    if (!sameDim(size(bias.shape), width)) this.#refuse("add a bias", [x, bias], "the widths differ");
    return this.one("addBias", [x, bias], x.shape, [rowsOf(x.shape), width]);
  }

  /** Normalises runs of `w.length` values, so that [tokens, heads·dim] with a [dim] weight is a per-head norm. */
  rmsnorm(x: Value, w: Value, eps: number): Value {
    const width = size(w.shape).times, total = size(x.shape);
    if (total.times % width !== 0) this.#refuse("normalise", [x, w], "the widths differ");
    const rows = dim(total.symbol, total.times / width);
    const y = this.value("rmsnorm", x.shape, { dtype: resultType("rmsnorm", [x, w]) }),
      rstd = this.value("rstd", [rows]);
    this.emit("rmsnorm", [x, w], [y, rstd], [rows, width, eps]);
    return y;
  }

  /** Rotates [T, heads·D] by position; `direction` −1 is the inverse. */
  rope(x: Value, positions: Value, table: Value, direction = 1): Value {
    const headDim = widthOf(table.shape), heads = widthOf(x.shape) / headDim;
    if (!Number.isInteger(heads)) this.#refuse("rotate", [x, table], "the width is not a number of heads");
    return this.one("rope", [x, positions, table], x.shape, [rowsOf(x.shape), heads, headDim, direction]);
  }

  /** Causal attention over packed sequences. */
  attention(q: Value, k: Value, v: Value, ends: Value, h: Heads): Value {
    this.#checkHeads(q, k, v, h);
    const rows = rowsOf(q.shape),
      o = this.value("attention", q.shape, { dtype: resultType("attention", [q, k, v, ends]) }),
      lse = this.value("lse", [rows, h.heads]);
    const attrs = [
      rows,
      rowsOf(ends.shape),
      h.heads,
      h.kvHeads,
      h.headDim,
      h.window,
      1 / Math.sqrt(h.headDim),
    ];
    this.emit("attention", [q, k, v, ends], [o, lse], attrs);
    return o;
  }

  swiglu(gate: Value, up: Value): Value {
    if (!sameSize(gate.shape, up.shape)) this.#refuse("gate", [gate, up], "the sizes differ");
    return this.one("swiglu", [gate, up], gate.shape, [size(gate.shape)]);
  }

  /**
   * Log-probabilities of `targets` under softmax(x·wᵀ · inverseTemperature), and the entropy of each distribution when
   * asked for. The [rows, vocabulary] logits are in memory only where the backward pass finds them there: `keepLogits`.
   *
   * @param part of the vocabulary that w is, when tensor parallelism splits it: every rank gets the same result
   */
  linearLogprob(
    x: Value,
    w: Weight,
    targets: Value,
    inverseTemperature: Value,
    withEntropy: boolean,
    part?: Part,
    keepLogits = false,
  ) {
    this.#checkProduct(x, w);
    const rows = rowsOf(x.shape), logprobs = this.value("logprobs", [rows]), lse = this.value("lse", [rows]);
    const entropy = withEntropy ? this.value("entropy", [rows]) : undefined;
    const step = keepLogits ? logitsStep(w.outputs) : 0;
    const ins = [x, w.value, targets, inverseTemperature],
      outs = [logprobs, lse, ...(entropy ? [entropy] : [])];
    if (step) outs.push(this.value("logits", [rows, step]));
    const attrs = [rows, w.inputs, w.outputs, Number(withEntropy)];
    if (part) {
      const work = this.value("work", [rows, 3]);
      const place = [part.first, part.total, axisNumber("tp"), step, Number(w.panels)];
      this.emit("shardLogprob", ins, [...outs, work], [...attrs, ...place]);
    } else this.emit("linearLogprob", ins, outs, [...attrs, step, Number(w.panels)]);
    return { logprobs, entropy };
  }

  /**
   * {@link linearLogprob} under the softmax over a few tokens of each row, `kept` [rows, most], instead of the vocabulary.
   *
   * @param part of the vocabulary that w is, when tensor parallelism splits it: every rank gets the same result
   */
  keptLogprob(
    x: Value,
    w: Weight,
    kept: Value,
    targets: Value,
    inverseTemperature: Value,
    withEntropy: boolean,
    part?: Part,
  ) {
    this.#checkProduct(x, w);
    const rows = rowsOf(x.shape), width = widthOf(kept.shape), { first, total } = part ?? whole(w);
    const own = this.one("keptLogits", [x, w.value, kept], kept.shape, [
      rows,
      w.inputs,
      w.outputs,
      width,
      first,
      total,
      Number(w.panels),
    ]);
    const z = part ? this.allReduce(own, "tp") : own;
    const logprobs = this.value("logprobs", [rows]), lse = this.value("lse", [rows]);
    const entropy = withEntropy ? this.value("entropy", [rows]) : undefined;
    const outs = [logprobs, lse, ...(entropy ? [entropy] : [])];
    const ins = [z, kept, targets, inverseTemperature];
    this.emit("keptLogprob", ins, outs, [rows, width, Number(withEntropy)]);
    return { logprobs, entropy };
  }

  /** Rows of x: [rows.length, width]. Works for every type. */
  gatherRows(x: Value, rows: Value): Value {
    const n = rowsOf(rows.shape), width = widthOf(x.shape);
    const shape: Shape = x.shape.length > 1 ? [n, width] : [n];
    return this.one("gatherRows", [x, rows], shape, [n, width, rowsOf(x.shape)]);
  }

  /** One pointwise instruction; `fuse.ts` merges neighbours. A scalar broadcasts. */
  pointwise(kind: PointwiseKind, ...ins: readonly Value[]): Value {
    const shape = ins.find((v) => !isScalar(v.shape))?.shape ?? ins[0]!.shape;
    if (ins.some((v) => !isScalar(v.shape) && !sameSize(v.shape, shape))) {
      this.#refuse(`apply ${kind}`, ins, "the sizes differ");
    }
    const out = this.value(kind, shape, { dtype: resultType("pointwise", ins) });
    this.emit("pointwise", ins, [out], pointwiseAttrs(kind, ins, size(shape)));
    return out;
  }

  /** x + y into `out`, which may have the place of x. */
  sum(x: Value, y: Value, out: Value): Value {
    this.emit("pointwise", [x, y], [out], pointwiseAttrs("add", [x, y], size(out.shape)));
    return out;
  }

  /** A tensor whose every element is `value`. */
  fill(value: number, shape: Shape = [1]): Value {
    return this.one("fill", [], shape, [size(shape), value]);
  }

  /** A scalar as a tensor. max(x, x) is x to the bit. */
  broadcast(x: Value, shape: Shape): Value {
    if (sameSize(x.shape, shape)) return x;
    if (!isScalar(x.shape)) this.#refuse("broadcast", [x], `it is no scalar and ${show(shape)} is wanted`);
    const out = this.value("broadcast", shape);
    this.emit("pointwise", [x, x], [out], pointwiseAttrs("max", [x, x], size(shape)));
    return out;
  }

  /** The same numbers, through which no gradient flows. */
  detach(x: Value): Value {
    const y = this.one("copy", [x], x.shape, [size(x.shape)]);
    this.detached.add(y);
    return y;
  }

  /** Sums of runs of neighbours: x[N] → [M]. */
  segmentSum(x: Value, ends: Value): Value {
    return this.one("segmentSum", [x, ends], [rowsOf(ends.shape)], [size(x.shape), rowsOf(ends.shape)]);
  }
  /** y[M] → [N]: each value to every element of its run. */
  segmentSpread(y: Value, ends: Value, n: Attr): Value {
    return this.one("segmentSpread", [y, ends], [n], [n, rowsOf(ends.shape)]);
  }
  /** x[N] → [M]: the last element of each run, 0 for an empty one. */
  segmentLast(x: Value, ends: Value): Value {
    return this.one("segmentLast", [x, ends], [rowsOf(ends.shape)], [size(x.shape), rowsOf(ends.shape)]);
  }
  /** y[M] → [N]: each value to the last element of its run, zero elsewhere. */
  segmentAtEnd(y: Value, ends: Value, n: Attr): Value {
    return this.one("segmentAtEnd", [y, ends], [n], [n, rowsOf(ends.shape)]);
  }
  segmentLength(ends: Value): Value {
    return this.one("segmentLength", [ends], [rowsOf(ends.shape)], [rowsOf(ends.shape)]);
  }

  /** The sum of all elements; with `running`, continues the sum that is at its place. */
  total(x: Value, running?: Value): Value {
    const out = this.value(running?.name ?? "total", [1], { place: running?.place });
    this.emit("total", running ? [x, running] : [x], [out], [size(x.shape), Number(running !== undefined)]);
    return out;
  }

  /** x[stride·P] → [P], elements `stride·i + phase`. */
  strideGather(x: Value, p: Dim, stride: number, phase: number): Value {
    return this.one("strideGather", [x], [p], [p, stride, phase]);
  }
  strideScatter(y: Value, shape: Shape, stride: number, phase: number): Value {
    return this.one("strideScatter", [y], shape, [size(y.shape), stride, phase]);
  }

  /** Generalised advantage estimation (Schulman et al. 2016, eq. 16): [actions]. */
  gae(
    rewards: Value,
    values: Value,
    finals: Value,
    ends: Value,
    o: { gamma: number; lambda: number },
  ): Value {
    const attrs = [size(rewards.shape), rowsOf(ends.shape), o.gamma, o.lambda];
    return this.one("gae", [rewards, values, finals, ends], rewards.shape, attrs);
  }

  #checkProduct(x: Value, w: Weight): void {
    if (widthOf(x.shape) !== w.inputs) this.#refuse("multiply", [x, w.value], "the inner dims differ");
  }
  #checkHeads(q: Value, k: Value, v: Value, h: Heads): void {
    const kv = h.kvHeads * h.headDim;
    if (widthOf(q.shape) !== h.heads * h.headDim || widthOf(k.shape) !== kv || widthOf(v.shape) !== kv) {
      this.#refuse("attend", [q, k, v], `${h.heads} and ${h.kvHeads} heads of ${h.headDim} are wanted`);
    }
  }
  #refuse(action: string, values: readonly Value[], why: string): never {
    throw new RangeError(
      `Cannot ${action}: ${values.map((v) => `${v.name} ${show(v.shape)}`).join(", ")}: ${why}`,
    );
  }
}

/** Attributes of a pointwise operation with one instruction over its inputs in order. */
function pointwiseAttrs(kind: PointwiseKind, ins: readonly Value[], n: Dim): Attr[] {
  const strides = ins.map((v) => sameDim(size(v.shape), n) ? 1 : 0);
  return [
    n,
    ins.length,
    1,
    1,
    ...strides,
    POINTWISE[kind],
    0,
    ins.length > 1 ? 1 : 0,
    ins.length > 2 ? 2 : 0,
    ins.length,
  ];
}
