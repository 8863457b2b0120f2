/** The cases of operations whose operands may be bf16, with bf16 operands: which those are is in the table of `cuda/common/opcodes.h`. */
import type { OpKind } from "../../ir/op.ts";
import { toBfloat16 } from "../../engine/half.ts";
import type { Case } from "./cases.ts";
import type { Data, Out } from "./harness.ts";
import { TABLE } from "./operand_table.ts";

/** The same case with operands in bf16: those of all letters, or all but those that may keep the sums of many (`g`) or leave (`y`). */
function halved(c: Case, letters: (letter: string) => boolean): Case | null {
  const all = marksOf(c).map(letters), ins = all.slice(0, c.ins.length), outs = all.slice(c.ins.length);
  if (!all.some((half) => half) || c.updates) return null;
  const half = (data: Data): Data =>
    data instanceof Uint16Array ? data : toBfloat16(data as Float32Array<ArrayBuffer>);
  return {
    ...c,
    ins: c.ins.map((data, i) => ins[i] ? half(data) : data),
    outs: c.outs.map((out, i): Out => {
      if (typeof out === "number") return outs[i] ? new Uint16Array(out) : out;
      return "inPlace" in out || !outs[i] ? out : half(out);
    }),
  };
}

/** The letter of every operand of a case, inputs first. */
function marksOf({ kind, ins, outs, attrs }: Case): string[] {
  // What the table cannot say, because their operands depend on their attributes.
  if (kind === "pointwise") return [...ins, ...outs].map(() => "a");
  if (kind === "squareSums") return [...ins.map(() => "g"), " "];
  return TABLE.get(kind)!.operands.filter(({ flag }) => flag < 0 || attrs[flag] !== 0).map(({ type }) =>
    type
  );
}

const SOME = (letter: string) => "atr".includes(letter), ALL = (letter: string) => letter !== " ";
/** All but sums of many. */
const PASSING = (letter: string) => SOME(letter) || letter === "y";

/** Of integers there is no half. */
const isNumeric = ({ ins }: Case, i: number): boolean =>
  ins[i] === undefined || ins[i] instanceof Float32Array;

export function halfCases(of: readonly Case[]): readonly Case[] {
  return of.flatMap((c) => {
    if (c.kind === "gatherRows" && !isNumeric(c, 0)) return [];
    const marks = new Set(marksOf(c));
    const ways = [
      SOME,
      ...marks.has("y") || marks.has("g") ? [ALL] : [],
      ...marks.has("y") && marks.has("g") ? [PASSING] : [],
    ];
    return ways.map((way) => halved(c, way)).filter((x) => x !== null);
  });
}

/** Kinds of which there are such cases. */
export const HALF_KINDS: readonly OpKind[] = [...TABLE].flatMap(([kind, { operands }]) =>
  operands.some(({ type }) => type !== " ") || kind === "pointwise" || kind === "squareSums"
    ? [kind as OpKind]
    : []
);
