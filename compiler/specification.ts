/** What must be true of every program before it is encoded. Checked each time: it costs less than encoding. */
import { type Maxima, type Op, type Place, type Segment, SEGMENTS, type Value } from "../ir/op.ts";
import { continued, operandCounts, SIZE_ATTRIBUTES } from "./operands.ts";
import { bytesOf } from "./shape.ts";

/**
 * @throws Error listing every violation: a value made twice or read before it is made, a fixed place read after it was
 * overwritten (a value that is declared after the write sees what was written), operands or attributes that do not fit the
 * operation, a place that ends past its segment, a running sum or gradient that left its place
 */
export function checkProgram(
  name: string,
  ops: readonly Op[],
  placeOf: (v: Value) => Place | undefined,
  segmentBytes: Readonly<Record<Segment, number>>,
  maxima: Maxima,
): void {
  const problems: string[] = [], made = new Set<Value>();
  /** Writes to fixed places, by segment. */
  const written = Object.fromEntries(SEGMENTS.map((s) => [s, []])) as unknown as Record<Segment, Value[]>;
  /** What was written over some byte of v after v itself was, unless v was declared to see it. */
  const overwriter = (v: Value, { segment, offset }: Place): Value | undefined => {
    const end = offset + bytesOf(v, maxima);
    const last = written[segment].findLast((w) =>
      w.id >= v.id && w.place!.offset < end && w.place!.offset + bytesOf(w, maxima) > offset
    );
    return last === v ? undefined : last;
  };
  ops.forEach((op, i) => {
    const complain = (text: string) => problems.push(`operation ${i} (${op.kind}) ${text}`);
    for (const v of op.ins) {
      if (!v.place && !made.has(v)) complain(`reads ${v.name} before it is made`);
      if (v.place && overwriter(v, v.place)) complain(`reads ${v.name} after it was overwritten`);
    }
    for (const v of op.outs) {
      if (made.has(v)) complain(`makes ${v.name} a second time`);
      made.add(v);
      if (v.place) written[v.place.segment].push(v);
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
    const output = continued(op), prior = op.ins.at(-1);
    const sum = prior?.place?.segment === "grads" || prior?.place?.segment === "outputs";
    if (output !== undefined && sum && !samePlace(prior.place!, op.outs[output]!.place)) {
      complain(`continues ${prior.name} outside its place`);
    }
    for (const v of op.outs) {
      if (!v.place) continue;
      const { segment } = v.place, from = op.ins[0]?.place?.segment;
      const gathers = op.kind === "allGatherRows" && segment === "params" && from === "params";
      if ((segment === "params" || segment === "moments") && op.kind !== "adamw" && !gathers) {
        complain(`writes ${v.name}, which only the optimizer may`);
      }
      const reduces = op.kind === "reduceScatterRows" && from === "grads";
      if (segment === "grads" && !reduces && !op.ins.some((x) => samePlace(v.place!, x.place))) {
        complain(`overwrites the gradient ${v.name} instead of adding to it`);
      }
    }
  });
  if (problems.length) throw new Error(`Cannot compile ${name}: ${problems.join("; ")}`);
}

const samePlace = (a: Place, b: Place | undefined) =>
  b !== undefined && a.segment === b.segment && a.offset === b.offset;
