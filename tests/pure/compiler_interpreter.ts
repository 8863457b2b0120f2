/** Runs the operations of traced arithmetic in float64, from their definitions in `ir/op.ts`: a second opinion. */
import { type Attr, extent, type Maxima, type Op, POINTWISE, type Value } from "../../ir/op.ts";

export type Memory = Map<string, Float64Array>;
const INSTRUCTIONS = Object.keys(POINTWISE);

/** Where a value is: its place when it has one, so that running sums continue. */
export const keyOf = (v: Value): string => v.place ? `${v.place.segment}+${v.place.offset}` : `%${v.id}`;

/** Executes `ops` on `memory`, which holds the placed inputs and gets every result. */
export function interpret(ops: readonly Op[], live: Maxima, memory: Memory): Memory {
  for (const op of ops) {
    const ins = op.ins.map((v) => {
      const data = memory.get(keyOf(v));
      if (!data) throw new Error(`${op.kind} reads ${v.name}, which nothing has written`);
      return data;
    });
    const outs = run(op, ins, (a) => extent(a, live));
    op.outs.forEach((v, i) => memory.set(keyOf(v), outs[i]!));
  }
  return memory;
}

function run(op: Op, ins: readonly Float64Array[], at: (a: Attr) => number): Float64Array[] {
  const [x, y] = ins as [Float64Array, Float64Array], a = op.attrs.map(at), n = a[0]!;
  const each = (length: number, f: (i: number) => number) => [Float64Array.from({ length }, (_, i) => f(i))];
  const start = (ends: Float64Array, i: number) => i ? ends[i - 1]! : 0;
  const segmentOf = (ends: Float64Array, i: number) => ends.findIndex((end) => i < end);
  const isLast = (ends: Float64Array, i: number) => ends[segmentOf(ends, i)] === i + 1;
  const sum = (from: number, to: number) => x.slice(from, to).reduce((s, v) => s + v, 0);
  switch (op.kind) {
    case "fill":
      return each(n, () => a[1]!);
    case "copy":
      return [x.slice(0, n)];
    case "pointwise":
      return pointwise(a, ins);
    case "segmentSum":
      return each(a[1]!, (i) => sum(start(y, i), y[i]!));
    case "segmentSpread":
      return each(n, (i) => x[segmentOf(y, i)]!);
    case "segmentLast":
      return each(a[1]!, (i) => y[i]! > start(y, i) ? x[y[i]! - 1]! : 0);
    case "segmentAtEnd":
      return each(n, (i) => isLast(y, i) ? x[segmentOf(y, i)]! : 0);
    case "segmentLength":
      return each(n, (i) => x[i]! - start(x, i));
    case "total":
      return [Float64Array.of(sum(0, n) + (a[1] ? y[0]! : 0))];
    case "strideGather":
      return each(n, (i) => x[a[1]! * i + a[2]!]!);
    case "strideScatter":
      return each(n * a[1]!, (i) => i % a[1]! === a[2] ? x[Math.floor(i / a[1]!)]! : 0);
    case "gae":
      return [gae(ins as [Float64Array, Float64Array, Float64Array, Float64Array], a[2]!, a[3]!)];
    default:
      throw new Error(`the interpreter has no ${op.kind}`);
  }
}

function gae(
  [rewards, values, finals, ends]: readonly [Float64Array, Float64Array, Float64Array, Float64Array],
  gamma: number,
  lambda: number,
) {
  const out = new Float64Array(rewards.length);
  ends.forEach((end, s) => {
    let carry = 0;
    for (let i = end - 1; i >= (s ? ends[s - 1]! : 0); i--) {
      const next = i + 1 < end ? values[i + 1]! : finals[s]!;
      out[i] = carry = rewards[i]! + gamma * next - values[i]! + gamma * lambda * carry;
    }
  });
  return out;
}

function pointwise(a: readonly number[], ins: readonly Float64Array[]): Float64Array[] {
  const [n, inputs, count, outputs] = a as [number, number, number, number];
  const strides = a.slice(4, 4 + inputs),
    words = a.slice(4 + inputs),
    outs = words.slice(4 * count, 4 * count + outputs);
  const results = outs.map(() => new Float64Array(n));
  for (let i = 0; i < n; i++) {
    const r = ins.map((x, k) => x[strides[k]! * i]!);
    for (let k = 0; k < count; k++) {
      const [code, p, q, s] = words.slice(4 * k, 4 * k + 4) as [number, number, number, number];
      r.push(instruction(INSTRUCTIONS[code]!, p, r[p]!, r[q]!, r[s]!));
    }
    outs.forEach((register, k) => results[k]![i] = r[register]!);
  }
  return results;
}

function instruction(kind: string, constant: number, x: number, y: number, z: number): number {
  const table: Record<string, () => number> = {
    constant: () => constant,
    add: () => x + y,
    sub: () => x - y,
    mul: () => x * y,
    div: () => x / y,
    min: () => Math.min(x, y),
    max: () => Math.max(x, y),
    neg: () => -x,
    exp: () => Math.exp(x),
    log: () => Math.log(x),
    sigmoid: () => 1 / (1 + Math.exp(-x)),
    lt: () => Number(x < y),
    ge: () => Number(x >= y),
    where: () => x !== 0 ? y : z,
    abs: () => Math.abs(x),
    sqrt: () => Math.sqrt(x),
    logSigmoid: () => -Math.log1p(Math.exp(-x)),
    sign: () => Math.sign(x),
  };
  return table[kind]!();
}
