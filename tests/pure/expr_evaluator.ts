/** Evaluates traced arithmetic on small arrays, plainly: what the operations of `ir/expr.ts` mean. */
import type { Expr, ExprOp } from "../../ir/expr.ts";

export interface Batch {
  /** Actions of every sequence. */
  readonly lengths: readonly number[];
  /** Sequences of every prompt. */
  readonly group?: number;
  readonly model?: Readonly<Record<string, readonly number[]>>;
  readonly batch?: Readonly<Record<string, readonly number[]>>;
  readonly state?: Readonly<Record<string, number>>;
}

type Values = readonly number[];
const sum = (x: Values): number => x.reduce((a, b) => a + b, 0);
const mean = (x: Values): number => sum(x) / x.length;

const UNARY: Readonly<Record<string, (x: number) => number>> = {
  neg: (x) => -x,
  exp: Math.exp,
  log: Math.log,
  abs: Math.abs,
  sqrt: Math.sqrt,
  square: (x) => x * x,
  sigmoid: (x) => 1 / (1 + Math.exp(-x)),
  logSigmoid: (x) => Math.min(x, 0) - Math.log1p(Math.exp(-Math.abs(x))),
  detach: (x) => x,
};
const BINARY: Readonly<Record<string, (a: number, b: number) => number>> = {
  add: (a, b) => a + b,
  sub: (a, b) => a - b,
  mul: (a, b) => a * b,
  div: (a, b) => a / b,
  min: Math.min,
  max: Math.max,
  lt: (a, b) => Number(a < b),
  ge: (a, b) => Number(a >= b),
};

export function evaluate(expr: Expr, data: Batch): Record<string, Values> {
  const { lengths, group = 1 } = data, values: Values[] = [];
  const starts = lengths.map((_, i) => sum(lengths.slice(0, i)));
  const sequences = (x: Values) => lengths.map((n, i) => x.slice(starts[i]!, starts[i]! + n));
  const groups = (x: Values, f: (x: Values) => number) =>
    x.map((_, i) => f(x.slice(i - i % group, i - i % group + group)));
  const at = (x: Values, i: number) => x.length === 1 ? x[0]! : x[i]!;

  const run = (op: ExprOp): Values => {
    if (op.op === "const") return [op.value];
    if (op.op === "input") return op.from === "state" ? [data.state![op.field]!] : data[op.from]![op.field]!;
    const x = op.args.map((a) => values[a]!), [a = [], b = [], c = []] = x;
    const size = Math.max(...x.map((v) => v.length)),
      each = (f: (i: number) => number) => Array.from({ length: size }, (_, i) => f(i));
    if (op.op in UNARY) return a.map(UNARY[op.op]!);
    if (op.op in BINARY) return each((i) => BINARY[op.op]!(at(a, i), at(b, i)));
    switch (op.op) {
      case "where":
        return each((i) => at(a, i) !== 0 ? at(b, i) : at(c, i));
      case "sum":
        return [sum(a)];
      case "mean":
        return [mean(a)];
      case "sumPerSequence":
        return sequences(a).map(sum);
      case "meanPerSequence":
        return sequences(a).map(mean);
      case "last":
        return sequences(a).map((s) => s.at(-1)!);
      case "spread":
        return lengths.flatMap((n, i) => new Array<number>(n).fill(at(a, i)));
      case "atEnd":
        return lengths.flatMap((n, i) => [...new Array<number>(n - 1).fill(0), at(a, i)]);
      case "groupSum":
        return groups(a, sum);
      case "groupMean":
        return groups(a, mean);
      case "groupStd":
        return groups(a, (g) => {
          const m = mean(g);
          return Math.sqrt(sum(g.map((v) => (v - m) ** 2)) / (g.length - op.attrs!.unbiased!)) +
            op.attrs!.eps!;
        });
      case "chosen":
        return a.filter((_, i) => i % 2 === 0);
      case "rejected":
        return a.filter((_, i) => i % 2 === 1);
      case "gae": {
        const { gamma, lambda } = op.attrs!, rewards = sequences(a), v = sequences(b);
        return lengths.flatMap((n, s) => {
          const out = new Array<number>(n);
          let carry = 0;
          for (let t = n - 1; t >= 0; t--) {
            const next = t + 1 < n ? v[s]![t + 1]! : at(c, s);
            carry = rewards[s]![t]! + gamma! * next - v[s]![t]! + gamma! * lambda! * carry;
            out[t] = carry;
          }
          return out;
        });
      }
      default:
        throw new Error(`no such operation: ${op.op}`);
    }
  };
  for (const op of expr.ops) values.push(run(op));
  return Object.fromEntries(Object.entries(expr.outputs).map(([name, i]) => [name, values[i]!]));
}
