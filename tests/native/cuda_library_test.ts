/** The CUDA library as it can be checked without a GPU: it compiles, exports the interface, loads, and says what is missing. */
import assert from "node:assert/strict";
import { find } from "../../ffi/build.ts";
import { buildCuda, findToolkit } from "../../ffi/build_cuda.ts";
import { SYMBOLS, VERSION } from "../../ffi/symbols.ts";

const toolkit = findToolkit();
const ignore = typeof toolkit === "string";

/** Names of the functions that a library shows. */
async function exportsOf(library: string): Promise<string[]> {
  const args = ["-D", "--defined-only", library];
  const { success, stdout } = await new Deno.Command("nm", { args }).output();
  assert.ok(success);
  return new TextDecoder().decode(stdout).trim().split("\n").map((line) => line.split(" ").at(-1)!).sort();
}

Deno.test({
  name: `the CUDA library compiles, exports what the CPU library does, and loads anywhere${
    typeof toolkit === "string" ? ` (skipped: ${toolkit})` : ""
  }`,
  ignore,
  fn: async () => {
    Deno.env.set("BATON_CUDA_ARCHS", "90a");
    const library = await buildCuda(() => {});
    assert.deepEqual(await exportsOf(library), await exportsOf(find()!));
    assert.deepEqual(await exportsOf(library), Object.keys(SYMBOLS).sort());

    // The library stays open: closing one whose threads run would crash.
    const { symbols } = Deno.dlopen(library, SYMBOLS);
    assert.equal(symbols.baton_version(), VERSION);
    const json = new Uint8Array(32768);
    assert.equal(symbols.baton_describe(json, json.length), 0);
    const found = JSON.parse(new TextDecoder().decode(json.subarray(0, json.indexOf(0))));
    assert.equal(found.backend, "cuda");
    // Where there is no GPU, one line says so and devices are refused.
    if (found.gpus.length > 0) return;
    assert.match(
      found.missing,
      /^(no CUDA driver|no GPU can be used|there is a CUDA driver and no GPU)[^\n]*$/,
    );
    assert.ok(symbols.baton_device_create(0, new Uint32Array(1)) < 0);
  },
});

Deno.test("a toolkit that is not there is one line that says where it was looked for", () => {
  assert.match(
    findToolkit("/nowhere") as string,
    /^no nvcc in \/nowhere, install the CUDA toolkit or [^\n]*BATON_CUDA_TOOLKIT/,
  );
});
