/** One reverse sweep over the recorded operations. */
import type { Value } from "../ir/op.ts";
import type { Builder } from "./builder.ts";
import { DERIVATIVES } from "./derivatives.ts";

export interface DifferentiateOptions {
  /** Gradient of the result, when it is not the end of everything: 1 otherwise. */
  readonly dy?: Value;
  /** Values beside the keys of `into` whose gradient is asked for. */
  readonly wanted?: readonly Value[];
}
export interface Differentiated {
  /** Operations of the forward pass: how many there were before. */
  readonly forward: number;
  readonly gradientOf: (v: Value) => Value | undefined;
}

/**
 * Emits the gradient of `result` (a loss, or what a pipeline stage hands on) with respect to the keys of `into`, each added to
 * the sum that is already at the place of its value: accumulation over micro-batches is nothing else.
 *
 * @throws TypeError when the result depends on none of them, or on one through an operation without a derivative
 */
export function differentiate(
  b: Builder,
  result: Value,
  into: ReadonlyMap<Value, Value>,
  o: DifferentiateOptions = {},
): Differentiated {
  const forward = [...b.ops], needs = new Set<Value>([...into.keys(), ...o.wanted ?? []]);
  for (const op of forward) {
    if (op.ins.some((v) => needs.has(v))) op.outs.forEach((v) => b.detached.has(v) || needs.add(v));
  }
  if (!needs.has(result)) throw new TypeError("Cannot differentiate the loss: it depends on no parameter");

  const gradients = new Map<Value, Value>(into);
  /** A new value for the sum of all gradients of x so far; a parameter's is in its place. */
  const next = (x: Value) => {
    const seed = into.get(x);
    return b.value(seed?.name ?? `d.${x.name}`, x.shape, { dtype: (seed ?? x).dtype, place: seed?.place });
  };
  gradients.set(result, o.dy ?? b.fill(1, result.shape));

  for (const op of forward.toReversed()) {
    const dy = op.outs.map((v) => needs.has(v) ? gradients.get(v) : undefined);
    if (!dy.some((g) => g)) continue;
    const rule = DERIVATIVES[op.kind];
    if (!rule) {
      throw new TypeError(`Cannot differentiate ${op.kind}: it has no derivative, move it to compute()`);
    }
    rule({
      b,
      op,
      dy: dy[0]!,
      gradient: (i) => dy[i],
      wants: (i) => needs.has(op.ins[i]!),
      add(i, gradient) {
        const x = op.ins[i]!, prior = gradients.get(x);
        if (!needs.has(x)) return;
        gradients.set(x, prior ? b.sum(prior, gradient, next(x)) : gradient);
      },
      accumulate(i, make) {
        const x = op.ins[i]!, prior = gradients.get(x);
        if (!needs.has(x)) return;
        const out = next(x);
        make(prior ? [prior] : [], out);
        gradients.set(x, out);
      },
    });
  }
  return { forward: forward.length, gradientOf: (v) => gradients.get(v) };
}
