/** What must be true of every program before it is encoded. Checked each time: it costs less than encoding. */
import type { Maxima, Op, Place, Segment, Value } from "../ir/op.ts";
import { continued, operandCounts, SIZE_ATTRIBUTES } from "./operands.ts";
import { bytesOf } from "./shape.ts";

/**
 * @throws Error listing every violation: a value made twice or read before it is made, a fixed place read after it was
 * overwritten, operands or attributes that do not fit the operation, a place that ends past its segment, a running sum or
 * gradient that left its place
 */
export function checkProgram(
  name: string,
  ops: readonly Op[],
  placeOf: (v: Value) => Place | undefined,
  segmentBytes: Readonly<Record<Segment, number>>,
  maxima: Maxima,
): void {
  const problems: string[] = [], made = new Set<Value>(), owner = new Map<string, Value>();
  ops.forEach((op, i) => {
    const complain = (text: string) => problems.push(`operation ${i} (${op.kind}) ${text}`);
    for (const v of op.ins) {
      if (!v.place && !made.has(v)) complain(`reads ${v.name} before it is made`);
      if (v.place && (owner.get(key(v.place)) ?? v) !== v) {
        complain(`reads ${v.name} after it was overwritten`);
      }
    }
    for (const v of op.outs) {
      if (made.has(v)) complain(`makes ${v.name} a second time`);
      made.add(v);
      if (v.place) owner.set(key(v.place), v);
    }
    for (const v of [...op.ins, ...op.outs]) {
      const place = placeOf(v);
      if (!place) complain(`uses ${v.name}, which has no place`);
      else if (place.offset + bytesOf(v, maxima) > segmentBytes[place.segment]) {
        complain(`uses ${v.name}, which ends past the ${place.segment} segment`);
      }
    }
    const [ins, outs] = operandCounts(op);
    if (op.ins.length !== ins || op.outs.length !== outs) {
      complain(`has ${op.ins.length} inputs and ${op.outs.length} outputs, not ${ins} and ${outs}`);
    }
    op.attrs.forEach((a, at) => {
      if (typeof a !== "number" && !SIZE_ATTRIBUTES[op.kind].includes(at)) {
        complain(`attribute ${at} is no size`);
      }
    });
    const output = continued(op), prior = op.ins.at(-1)!;
    if (output !== undefined && prior.place && !samePlace(prior.place, op.outs[output]!.place)) {
      complain(`continues ${prior.name} outside its place`);
    }
    for (const v of op.outs) {
      if (v.place && (v.place.segment === "params" || v.place.segment === "moments") && op.kind !== "adamw") {
        complain(`writes ${v.name}, which only the optimizer may`);
      }
      if (v.place?.segment === "grads" && !op.ins.some((x) => samePlace(v.place!, x.place))) {
        complain(`overwrites the gradient ${v.name} instead of adding to it`);
      }
    }
  });
  if (problems.length) throw new Error(`Cannot compile ${name}: ${problems.join("; ")}`);
}

const key = (p: Place) => `${p.segment}+${p.offset}`;
const samePlace = (a: Place, b: Place | undefined) => b !== undefined && key(a) === key(b);
