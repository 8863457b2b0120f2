/** Derivatives of pointwise instructions, by name of the instruction. */
import { POINTWISE, type PointwiseKind, type Value } from "../ir/op.ts";
import type { Backward } from "./rule.ts";
import { isScalar } from "./shape.ts";

const KINDS = Object.fromEntries(
  Object.entries(POINTWISE).map(([kind, code]) => [code, kind as PointwiseKind]),
);

/**
 * At ties, min and max give half of the gradient to each side, as PyTorch's `minimum` and `maximum` do; a clamp made of
 * them gives half at its bounds (PyTorch's `clamp` gives all). lt, ge, sign and the condition of where have none.
 */
export function differentiatePointwise({ b, op, dy, wants, add }: Backward): void {
  const [x, y] = op.ins as [Value, Value], out = op.outs[0]!;
  const f = b.pointwise.bind(b);
  /** Adds the gradient of input i, summed when the input was broadcast. */
  const give = (i: number, make: () => Value) => {
    if (!wants(i)) return;
    const g = make();
    add(i, isScalar(op.ins[i]!.shape) && !isScalar(out.shape) ? b.total(b.broadcast(g, out.shape)) : g);
  };
  /** Gradient of the side that is chosen where `wins(a, b)`: all of it, half of it at a tie, or nothing. */
  const chosen = (lower: Value, upper: Value) =>
    f("mul", dy, f("mul", b.fill(0.5), f("add", f("lt", lower, upper), f("ge", upper, lower))));

  const rules: Record<PointwiseKind, () => void> = {
    constant: () => {},
    lt: () => {},
    ge: () => {},
    sign: () => {},
    add() {
      give(0, () => dy);
      give(1, () => dy);
    },
    sub() {
      give(0, () => dy);
      give(1, () => f("neg", dy));
    },
    mul() {
      give(0, () => f("mul", dy, y));
      give(1, () => f("mul", dy, x));
    },
    div() {
      give(0, () => f("div", dy, y));
      give(1, () => f("neg", f("div", f("mul", dy, out), y)));
    },
    min() {
      give(0, () => chosen(x, y));
      give(1, () => chosen(y, x));
    },
    max() {
      give(0, () => chosen(y, x));
      give(1, () => chosen(x, y));
    },
    where() {
      give(1, () => f("where", x, dy, b.fill(0)));
      give(2, () => f("where", x, b.fill(0), dy));
    },
    neg: () => give(0, () => f("neg", dy)),
    exp: () => give(0, () => f("mul", dy, out)),
    log: () => give(0, () => f("div", dy, x)),
    abs: () => give(0, () => f("mul", dy, f("sign", x))),
    sqrt: () => give(0, () => f("div", f("mul", dy, b.fill(0.5)), out)),
    sigmoid: () => give(0, () => f("mul", dy, f("mul", out, f("sub", b.fill(1), out)))),
    logSigmoid: () => give(0, () => f("mul", dy, f("sigmoid", f("neg", x)))),
  };
  rules[KINDS[op.attrs[4 + op.ins.length] as number]!]();
}
