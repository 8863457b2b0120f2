/** The table of `cuda/common/opcodes.h`, as far as tests ask it: names of attributes, and what operands may be. */
import type { OpKind } from "../../ir/op.ts";

/** An operand as the table has it. */
export interface Marked {
  readonly output: boolean;
  /** Letter of its type; a space for what cannot be bf16. */
  readonly type: string;
  /** Position of the attribute that says whether it is there; −1 for always. */
  readonly flag: number;
  /** Positions of the attributes that are outputs and inputs of a weight; null for what is none. */
  readonly weight: readonly [outputs: number, inputs: number] | null;
}

/** An operation as the table has it. */
interface Row {
  readonly attributes: readonly string[];
  readonly operands: readonly Marked[];
}

const text = await Deno.readTextFile(new URL("../../cuda/common/opcodes.h", import.meta.url));

export const TABLE: ReadonlyMap<string, Row> = new Map(
  [...text.matchAll(/\{\d+, "(\w+)", "([^"]*)",\s*((?:"[^"]*"\s*)+)\}/g)].map(([, kind, list, parts]) => {
    const attributes = list!.split(" ").map((name) => name.replace(/[:~@]$/, ""));
    const words = [...parts!.matchAll(/"([^"]*)"/g)].map((m) => m[1]).join("").split(" ").filter((w) => w);
    const operands = words.map((word): Marked => {
      const [, flag, mark, type] = /^(?:\((\w+)\))?([#>!=@])?.*?\](?::(\w))?$/.exec(word)!;
      const sizes = /\[(\w+)\?(\w+)\]/.exec(word)?.slice(1).map((name) => attributes.indexOf(name));
      return {
        output: mark === ">",
        type: type ?? " ",
        flag: flag ? attributes.indexOf(flag) : -1,
        weight: (sizes as [number, number] | undefined) ?? null,
      };
    });
    return [kind!, { attributes, operands }] as const;
  }),
);

/** Position of the attribute that says how weights lie; −1 where there are none. */
export const layoutAt = (kind: OpKind): number => TABLE.get(kind)?.attributes.indexOf("panels") ?? -1;
