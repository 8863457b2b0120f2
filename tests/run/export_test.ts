/** Exports, checkpoints and loads take the same host memory however large a model is. */
import assert from "node:assert/strict";
import { PASSING_BYTES, PIECE } from "../../engine/tensor_pieces.ts";
import { succeeds } from "./fixtures.ts";

/** The arrays of a process that were used before the measuring begins. */
const KEPT = 3 * 4 * PIECE;

for (const [strategy, precision] of [["dp2tp2", "bf16"], ["pp2", "fp32"]] as const) {
  Deno.test(`a model that is larger than what may pass at once is written and read in pieces, ${strategy} in ${precision}`, async () => {
    const folder = await Deno.makeTempDir();
    try {
      const { out } = await succeeds("export.ts", [folder, strategy, precision], {
        deno: ["--v8-flags=--expose-gc"],
      });
      const { bytes, ...risen } = JSON.parse(out) as Record<string, number>;
      assert.ok(bytes! > 2 * PASSING_BYTES, `${bytes} bytes`);
      console.log(out.trim());
      for (const [what, grown] of Object.entries(risen)) {
        assert.ok(grown <= PASSING_BYTES - KEPT, `${what}: ${grown} bytes, at most ${PASSING_BYTES - KEPT}`);
      }
    } finally {
      await Deno.remove(folder, { recursive: true });
    }
  });
}
