/**
 * Runs every case of ../cases.ts (or those whose kind is named) on the library that BATON_LIBRARY or BATON_BACKEND names, each twice,
 * and writes one JSON line per case with the bits of its outputs. With `--half` first, those that take bf16 operands, with such; with
 * `--rows` (behind it) those that take weights in panels, with such in rows, and what they give put into panels again.
 */
import { cases } from "../cases.ts";
import { halfCases } from "../half_cases.ts";
import { assertSameBits, run } from "../harness.ts";
import { inPanels, rowCases } from "../row_cases.ts";
import { shapeCases } from "../shape_cases.ts";

const wanted = new Set(Deno.args), half = wanted.delete("--half"), rows = wanted.delete("--rows");
const all = [...cases(), ...shapeCases()], typed = half ? halfCases(all) : all;
for (const c of rows ? rowCases(typed) : typed) {
  const { kind, ins, outs, attrs, updates } = c;
  if (wanted.size > 0 && !wanted.has(kind)) continue;
  const once = () => run(kind, ins, outs, attrs, 1, updates);
  const outputs = await once();
  // The same numbers in other memory: nothing depends on addresses, or on what lay there before.
  (await once()).forEach((out, i) => assertSameBits(out, outputs[i]!, `${kind} again`));
  const words = (rows ? inPanels(c, outputs) : outputs).map((
    out,
  ) => [...new Uint32Array(out.buffer, out.byteOffset, out.length)]);
  console.log(JSON.stringify({ kind, attrs: attrs.slice(0, 8), words }));
}
Deno.exit(0);
