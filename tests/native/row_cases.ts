/** Cases with weights in rows, made of those in panels. */
import type { Case } from "./cases.ts";
import type { Data, Out } from "./harness.ts";
import { layoutAt, type Marked, TABLE } from "./operand_table.ts";

type Numbers = Exclude<Data, Int32Array>;
type Sizes = readonly [outputs: number, inputs: number];

/** Where element (row, column) is in panels. */
const place = (row: number, column: number, k: number) => (row >> 4) * 16 * k + 16 * column + (row & 15);

/** Rows of what lies in panels. */
export function rowsOf<T extends Numbers>(from: T, [n, k]: Sizes): T {
  const to = from.slice(0, n * k) as T;
  for (let i = 0; i < n; i++) for (let j = 0; j < k; j++) to[i * k + j] = from[place(i, j, k)]!;
  return to;
}
/** Panels of what lies in rows, zero past the last one. */
function panelsOf(from: Float32Array<ArrayBuffer>, [n, k]: Sizes): Float32Array<ArrayBuffer> {
  const to = new Float32Array(Math.ceil(n / 16) * 16 * k);
  for (let i = 0; i < n; i++) for (let j = 0; j < k; j++) to[place(i, j, k)] = from[i * k + j]!;
  return to;
}

/** Outputs and inputs of every operand that is a weight, inputs first; null for others. */
function weightsOf({ kind, attrs }: Case): (Sizes | null)[] {
  const present = ({ flag }: Marked) => flag < 0 || attrs[flag] !== 0;
  return TABLE.get(kind)!.operands.filter(present).map(({ weight }) =>
    weight && [attrs[weight[0]] as number, attrs[weight[1]] as number]
  );
}

/** Those that take a weight in panels, with it in rows. */
export function rowCases(of: readonly Case[]): readonly Case[] {
  return of.filter((c) => layoutAt(c.kind) >= 0 && c.attrs[layoutAt(c.kind)] !== 0).map((c): Case => {
    const weights = weightsOf(c), at = layoutAt(c.kind);
    return {
      ...c,
      ins: c.ins.map((data, i) => weights[i] ? rowsOf(data as Numbers, weights[i]) : data),
      outs: c.outs.map((out, i): Out => {
        const weight = weights[c.ins.length + i];
        if (!weight) return out;
        if (typeof out === "number") return weight[0] * weight[1];
        if ("inPlace" in out) return out;
        // Elements that are written decide the type.
        return rowsOf(new (out.constructor as Uint16ArrayConstructor)(out.length), weight);
      }),
      attrs: [...TABLE.get(c.kind)!.attributes.keys()].map((i) => i === at ? 0 : c.attrs[i] ?? 0),
    };
  });
}

/** What a case in rows gave, as it would lie in panels. */
export function inPanels(
  c: Case,
  outputs: readonly Float32Array<ArrayBuffer>[],
): Float32Array<ArrayBuffer>[] {
  const weights = weightsOf(c).slice(c.ins.length);
  return outputs.map((out, i) => weights[i] ? panelsOf(out, weights[i]) : out);
}
