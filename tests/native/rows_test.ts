/** Weights in rows give the bits of weights in panels: operation by operation. */
import assert from "node:assert/strict";
import { find } from "../../ffi/build.ts";
import { distances, outcomes } from "./outcomes.ts";
import { layoutAt, TABLE } from "./operand_table.ts";
import type { OpKind } from "../../ir/op.ts";

const KINDS = [...TABLE.keys()].filter((kind) => layoutAt(kind as OpKind) >= 0);

for (const isa of ["generic", "avx2", "avx512"]) {
  Deno.test(`every operation with a weight gives the same bits whether it lies in rows or in panels (${isa})`, async () => {
    for (const half of [[], ["--half"]]) {
      const env = { BATON_LIBRARY: find()!, BATON_ISA: isa };
      const panels = (await outcomes(env, [...half, ...KINDS])).filter(({ kind, attrs }) =>
        attrs[layoutAt(kind as OpKind)] !== 0
      );
      const rows = await outcomes(env, [...half, "--rows", ...KINDS]);
      assert.deepEqual(new Set(rows.map((o) => o.kind)), new Set(KINDS));
      assert.equal(rows.length, panels.length);
      for (const { name, bits } of distances(rows, panels)) assert.equal(bits, 0, `${name} has other bits`);
    }
  });
}
