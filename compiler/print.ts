/** A program as text, one operation a line, for people and golden tests. */
import { type Op, POINTWISE, type Value } from "../ir/op.ts";
import { show, showDim } from "./shape.ts";

const INSTRUCTIONS = Object.keys(POINTWISE);

/** `%id name [shape]` is made here; placed values are called by their place. */
export function printOps(ops: readonly Op[]): string {
  const made = new Set(ops.flatMap((op) => op.outs));
  const name = (v: Value) => v.place ? `${v.place.segment}/${v.name}` : `%${v.id}`;
  return ops.map((op) => {
    const outs = op.outs.map((v) => `${v.place ? name(v) : `%${v.id} ${v.name}`} ${show(v.shape)}`);
    const ins = op.ins.map((v) => made.has(v) || v.place ? name(v) : `${name(v)}?`);
    const tail = op.kind === "pointwise" ? instructions(op) : op.attrs.map(showDim).join(" ");
    return `${outs.join(", ") || "–"} = ${op.kind}(${ins.join(", ")}) ${tail}`.trimEnd();
  }).join("\n");
}

/** "r2=sub r0 r1; r3=exp r2 → r3". */
function instructions(op: Op): string {
  const [inputs, count, outputs] = op.attrs.slice(1, 4) as [number, number, number];
  const words = op.attrs.slice(4 + inputs) as number[], lines: string[] = [];
  for (let i = 0; i < count; i++) {
    const [code, ...args] = words.slice(4 * i, 4 * i + 4) as [number, number, number, number];
    const used = code === POINTWISE.constant
      ? [`${args[0]}`]
      : args.slice(0, arity(code)).map((r) => `r${r}`);
    lines.push(`r${inputs + i}=${INSTRUCTIONS[code]} ${used.join(" ")}`);
  }
  return `${lines.join("; ")} → ${words.slice(4 * count, 4 * count + outputs).map((r) => `r${r}`).join(" ")}`;
}

const TWO: readonly number[] = [
  POINTWISE.add,
  POINTWISE.sub,
  POINTWISE.mul,
  POINTWISE.div,
  POINTWISE.min,
  POINTWISE.max,
  POINTWISE.lt,
  POINTWISE.ge,
];
const arity = (code: number) => code === POINTWISE.where ? 3 : TWO.includes(code) ? 2 : 1;
