/** The tracer: tensors that record what is done with them. See `ir/expr.ts` for what every operation means. */
import type { BinaryKind, Expr, ExprOp, ShapeKind, UnaryKind } from "../ir/expr.ts";
import type { Granularity } from "../ir/field.ts";
import type { Fits, Joined } from "./granularity.ts";

/** What an operation takes on its other side. */
type Operand<G extends Granularity, H extends Granularity, Of extends string> =
  | Tensor<H, Of> & Fits<G, H>
  | number;
type Folded = "token" | "sequence" | "pair";

/** The operations of one traced function. Equal operations are recorded once. */
export class Tape {
  readonly ops: (ExprOp & { readonly per: Granularity })[] = [];
  readonly #known = new Map<string, number>();
  /** @param of the token field whose actions the per-token values belong to */
  constructor(readonly of: string) {}

  push(op: ExprOp, per: Granularity): number {
    const key = JSON.stringify([op, per]);
    const known = this.#known.get(key);
    if (known !== undefined) return known;
    this.#known.set(key, this.ops.length);
    return this.ops.push({ ...op, per }) - 1;
  }

  constant(value: number): number {
    if (!Number.isFinite(value)) {
      throw new RangeError(
        `Cannot trace the constant ${value}: it is not finite, check the options of the loss or compute`,
      );
    }
    return this.push({ op: "const", value: value + 0 }, "batch");
  }

  /** What the results need, plus every declared batch field, in recorded order. */
  expr(results: Readonly<Record<string, Tensor<Granularity, string>>>): Expr {
    const live = new Set(Object.values(results).map((t) => t.index));
    this.ops.forEach((op, i) => op.op === "input" && op.from === "batch" && live.add(i));
    for (let i = this.ops.length - 1; i >= 0; i--) {
      const op = this.ops[i]!;
      if (live.has(i) && "args" in op) op.args.forEach((a) => live.add(a));
    }
    const kept = [...live].sort((a, b) => a - b), renumbered = new Map(kept.map((old, i) => [old, i]));
    const ops = kept.map((i) => {
      const op = this.ops[i]!;
      return "args" in op ? { ...op, args: op.args.map((a) => renumbered.get(a)!) } as typeof op : op;
    });
    return {
      ops,
      outputs: Object.fromEntries(
        Object.entries(results).map(([name, t]) => [name, renumbered.get(t.index)!]),
      ),
    };
  }
}

/**
 * A symbolic value inside `compute` or a loss: one number per token, sequence, pair or for the batch. It records
 * operations and never holds numbers. Values of different granularity do not mix, except that batch scalars and plain
 * numbers go with everything: say `spread()`, `atEnd()`, `sumPerSequence()`, … to change granularity. `Of` is the token
 * field whose actions the per-token values of this trace belong to.
 *
 * @example A function over tensors, to be used inside losses
 * ```ts
 * import { policyLoss, perToken, type Tensor } from "@baton/baton";
 *
 * const k3 = (logRatio: Tensor<"token">) => logRatio.exp().sub(1).sub(logRatio);
 * const toReference = policyLoss({ refLogprobs: perToken }, (now, batch) =>
 *   k3(batch.refLogprobs.sub(now.logprobs)).mean());
 * ```
 */
export class Tensor<G extends Granularity = Granularity, Of extends string = "tokens"> {
  readonly #tape: Tape;
  readonly of: Of;

  constructor(tape: Tape, readonly index: number, readonly per: G) {
    this.#tape = tape;
    this.of = tape.of as Of;
  }

  /** True when the value was recorded on this tape: false for values leaked from another trace. */
  isOn(tape: Tape): boolean {
    return this.#tape === tape;
  }

  #make<H extends Granularity>(op: ExprOp, per: H): Tensor<H, Of> {
    return new Tensor(this.#tape, this.#tape.push(op, per), per);
  }

  #operand(action: string, other: Tensor<Granularity, Of> | number): { index: number; per: Granularity } {
    if (typeof other === "number") return { index: this.#tape.constant(other), per: "batch" };
    if (!(other instanceof Tensor)) {
      throw new TypeError(`Cannot ${action} a tensor and ${typeof other}: give a tensor or a number`);
    }
    if (other.#tape !== this.#tape) {
      throw new TypeError(`Cannot ${action} tensors of two traces: build both inside one function`);
    }
    return other;
  }

  #binary<H extends Granularity>(op: BinaryKind, other: Tensor<H, Of> | number): Tensor<Joined<G, H>, Of> {
    const rhs = this.#operand(op, other);
    if (rhs.per !== this.per && rhs.per !== "batch" && this.per !== "batch") {
      throw new TypeError(
        `Cannot ${op} a value per ${this.per} and one per ${rhs.per}: make one of them fit with spread(), atEnd(), ` +
          `sumPerSequence() or meanPerSequence()`,
      );
    }
    const per = (this.per === "batch" ? rhs.per : this.per) as Joined<G, H>;
    return this.#make({ op, args: [this.index, rhs.index] }, per);
  }

  /** this + other. */
  add<H extends Granularity = G>(other: Operand<G, H, Of>): Tensor<Joined<G, NoInfer<H>>, Of> {
    return this.#binary("add", other);
  }
  /** this − other. */
  sub<H extends Granularity = G>(other: Operand<G, H, Of>): Tensor<Joined<G, NoInfer<H>>, Of> {
    return this.#binary("sub", other);
  }
  /** other − this. */
  rsub<H extends Granularity = G>(other: Operand<G, H, Of>): Tensor<Joined<G, NoInfer<H>>, Of> {
    return this.neg().add(other);
  }
  /** this · other. */
  mul<H extends Granularity = G>(other: Operand<G, H, Of>): Tensor<Joined<G, NoInfer<H>>, Of> {
    return this.#binary("mul", other);
  }
  /** this ÷ other. */
  div<H extends Granularity = G>(other: Operand<G, H, Of>): Tensor<Joined<G, NoInfer<H>>, Of> {
    return this.#binary("div", other);
  }
  /** The smaller of both. */
  min<H extends Granularity = G>(other: Operand<G, H, Of>): Tensor<Joined<G, NoInfer<H>>, Of> {
    return this.#binary("min", other);
  }
  /** The larger of both. */
  max<H extends Granularity = G>(other: Operand<G, H, Of>): Tensor<Joined<G, NoInfer<H>>, Of> {
    return this.#binary("max", other);
  }
  /** At least `low` and at most `high`: `max(low).min(high)`, with their derivatives. */
  clamp<H extends G | "batch" = G>(low: Tensor<H, Of> | number, high: Tensor<H, Of> | number): Tensor<G, Of> {
    return this.#binary("max", low).min(high as number) as Tensor<G, Of>;
  }
  /** 1 where this < other, else 0. No derivative. */
  lt<H extends Granularity = G>(other: Operand<G, H, Of>): Tensor<Joined<G, NoInfer<H>>, Of> {
    return this.#binary("lt", other);
  }
  /** 1 where this ≥ other, else 0. No derivative. */
  ge<H extends Granularity = G>(other: Operand<G, H, Of>): Tensor<Joined<G, NoInfer<H>>, Of> {
    return this.#binary("ge", other);
  }
  /** `then` where this is not zero, `otherwise` elsewhere. */
  where<H extends G | "batch", K extends G | "batch">(
    then: Tensor<H, Of> | number,
    otherwise: Tensor<K, Of> | number,
  ): Tensor<G, Of> {
    const [a, b] = [this.#operand("choose between", then), this.#operand("choose between", otherwise)];
    for (const side of [a, b]) {
      if (side.per !== this.per && side.per !== "batch") {
        throw new TypeError(
          `Cannot choose a value per ${side.per} by a condition per ${this.per}: make them fit first`,
        );
      }
    }
    return this.#make({ op: "where", args: [this.index, a.index, b.index] }, this.per);
  }

  #unary(op: UnaryKind): Tensor<G, Of> {
    return this.#make({ op, args: [this.index] }, this.per);
  }
  neg(): Tensor<G, Of> {
    return this.#unary("neg");
  }
  exp(): Tensor<G, Of> {
    return this.#unary("exp");
  }
  /** Natural logarithm. */
  log(): Tensor<G, Of> {
    return this.#unary("log");
  }
  abs(): Tensor<G, Of> {
    return this.#unary("abs");
  }
  sqrt(): Tensor<G, Of> {
    return this.#unary("sqrt");
  }
  square(): Tensor<G, Of> {
    return this.#unary("square");
  }
  sigmoid(): Tensor<G, Of> {
    return this.#unary("sigmoid");
  }
  /** log σ(x), without overflow for large |x|. */
  logSigmoid(): Tensor<G, Of> {
    return this.#unary("logSigmoid");
  }
  /** The same value as data: no gradient flows through it. */
  detach(): Tensor<G, Of> {
    return this.#unary("detach");
  }

  #shape<H extends Granularity>(
    op: ShapeKind,
    from: readonly Granularity[],
    per: H,
    more: { readonly others?: readonly number[]; readonly attrs?: Readonly<Record<string, number>> } = {},
  ): Tensor<H, Of> {
    if (!from.includes(this.per)) {
      throw new TypeError(
        `Cannot take ${op} of a value per ${this.per}: it needs one per ${from.join(", ")}`,
      );
    }
    const args = [this.index, ...more.others ?? []];
    return this.#make({ op, args, ...(more.attrs && { attrs: more.attrs }) }, per);
  }

  /** Sum over the mini-batch (a loss) or over the step batch (`compute`). Divide it by a constant for a fixed denominator. */
  sum(this: Tensor<Folded & G, Of>): Tensor<"batch", Of> {
    return this.#shape("sum", ["token", "sequence", "pair"], "batch");
  }
  /** Mean over the mini-batch (a loss) or over the step batch (`compute`): per token, over all actions. */
  mean(this: Tensor<Folded & G, Of>): Tensor<"batch", Of> {
    return this.#shape("mean", ["token", "sequence", "pair"], "batch");
  }
  /** Sum over the actions of each sequence. */
  sumPerSequence(this: Tensor<"token", Of>): Tensor<"sequence", Of> {
    return this.#shape("sumPerSequence", ["token"], "sequence");
  }
  /** Mean over the actions of each sequence. */
  meanPerSequence(this: Tensor<"token", Of>): Tensor<"sequence", Of> {
    return this.#shape("meanPerSequence", ["token"], "sequence");
  }
  /** The value at the last action of each sequence. */
  last(this: Tensor<"token", Of>): Tensor<"sequence", Of> {
    return this.#shape("last", ["token"], "sequence");
  }
  /** A sequence's value on each of its actions. */
  spread(this: Tensor<"sequence", Of>): Tensor<"token", Of> {
    return this.#shape("spread", ["sequence"], "token");
  }
  /** A sequence's value on its last action, zero on the others. */
  atEnd(this: Tensor<"sequence", Of>): Tensor<"token", Of> {
    return this.#shape("atEnd", ["sequence"], "token");
  }
  /** Sum over the samples of one prompt, for each of them. */
  groupSum(this: Tensor<"sequence", Of>): Tensor<"sequence", Of> {
    return this.#shape("groupSum", ["sequence"], "sequence");
  }
  /** Mean over the samples of one prompt, for each of them. */
  groupMean(this: Tensor<"sequence", Of>): Tensor<"sequence", Of> {
    return this.#shape("groupMean", ["sequence"], "sequence");
  }
  /** Standard deviation over the samples of one prompt plus `eps`; `unbiased` divides by n − 1. */
  groupStd(
    this: Tensor<"sequence", Of>,
    options: { readonly unbiased?: boolean; readonly eps?: number } = {},
  ): Tensor<"sequence", Of> {
    const attrs = { unbiased: options.unbiased === false ? 0 : 1, eps: options.eps ?? 0 };
    return this.#shape("groupStd", ["sequence"], "sequence", { attrs });
  }
  /** Splits a batch of preference pairs into the values of the preferred and of the other sequences. */
  pairs(
    this: Tensor<"sequence", Of>,
  ): { readonly chosen: Tensor<"pair", Of>; readonly rejected: Tensor<"pair", Of> } {
    return {
      chosen: this.#shape("chosen", ["sequence"], "pair"),
      rejected: this.#shape("rejected", ["sequence"], "pair"),
    };
  }
  /**
   * Generalised advantage estimates of these rewards (Schulman et al. 2016, eq. 16).
   * @param values V before each action
   * @param options `final`: V after the last action of each sequence, 0 where the sequence has ended
   */
  gae(
    this: Tensor<"token", Of>,
    values: Tensor<"token", Of>,
    options: { readonly gamma: number; readonly lambda: number; readonly final?: Tensor<"sequence", Of> },
  ): Tensor<"token", Of> {
    const { gamma, lambda } = options;
    const final = options.final
      ? this.#operand("estimate advantages from", options.final).index
      : this.#tape.push({ op: "const", value: 0 }, "sequence");
    const others = [this.#operand("estimate advantages from", values).index, final];
    return this.#shape("gae", ["token"], "token", { others, attrs: { gamma, lambda } });
  }

  /** Any implicit use as a number is a mistake: fail where it happens. */
  [Symbol.toPrimitive](): never {
    throw new TypeError(
      "Cannot read the value of a traced tensor: it has no numbers while tracing, use its methods (where, min, lt, …)",
    );
  }
}
