/** Products of the same rows by one operation on the CUDA kernels: in one launch of few rows, and with the bits of single ones on every path. */
import assert from "node:assert/strict";
import { buildEmulation } from "../../ffi/build_cuda.ts";
import { fakeBlas } from "../native/fake_nccl.ts";

const emulated = await buildEmulation(() => {}), folder = await fakeBlas();
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);
const native = (name: string) => new URL(`../native/${name}`, import.meta.url).pathname;

async function ran(args: readonly string[], env: Record<string, string>): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args],
    env: { NO_COLOR: "1", BATON_LIBRARY: emulated, ...env },
  }).output();
  assert.ok(success, decode(stdout) + decode(stderr));
  return decode(stdout);
}

/** Kernels by operation, of so many rows. */
async function launches(rows: number, env: Record<string, string> = {}): Promise<unknown> {
  const log = await Deno.makeTempFile();
  const script = ["run", "-A", "--no-check", native("scripts/launches.ts"), String(rows)];
  const found = JSON.parse(await ran(script, { EMULATION_LAUNCHES: log, ...env }));
  await Deno.remove(log);
  return found;
}

Deno.test("joined products of few rows are one launch, of many as many as there are", async () => {
  const one = { matmul: 1, matmul2: 1, matmul3: 1, gatedMatmul: 1 },
    several = { matmul: 1, matmul2: 2, matmul3: 3, gatedMatmul: 3 };
  for (const rows of [1, 16]) assert.deepEqual(await launches(rows), one, `${rows} rows`);
  // Without cuBLASLt a kernel of few rows serves some more.
  assert.deepEqual(await launches(40), one);
  assert.deepEqual(await launches(40, { BATON_CUDA_LIBRARIES: folder, BATON_CUDA_PRODUCTS: "own" }), one);
  // The stand-in for cuBLASLt launches nothing: what is left of a gate is its activation.
  const library = { BATON_CUDA_LIBRARIES: folder };
  assert.deepEqual(await launches(16, library), one);
  assert.deepEqual(await launches(40, library), { matmul: 0, matmul2: 0, matmul3: 0, gatedMatmul: 1 });
  assert.deepEqual(await launches(129), several);
  assert.deepEqual(await launches(300), { ...several, gatedMatmul: 6 }, "two pieces of rows");
  assert.deepEqual(await launches(16, { BATON_CUDA_MATH: "fp32" }), several);
});

Deno.test("joined products have the bits of single ones, whatever does the products", async () => {
  const test = [
    "test",
    "-A",
    "--no-check",
    "--filter",
    "/joined products|matmul[23]|gatedMatmul/",
    native("op_joined_test.ts"),
    native("joined_programs_test.ts"),
  ];
  await Promise.all([
    { BATON_CUDA_PRODUCTS: "own" },
    { BATON_CUDA_LIBRARIES: folder },
    { BATON_CUDA_LIBRARIES: folder, BATON_CUDA_PRODUCTS: "cublas" },
    { BATON_CUDA_MATH: "bf16" },
    { BATON_CUDA_MATH: "fp32" },
  ].map(async (env) =>
    assert.match(await ran(test, env as Record<string, string>), /\| 4 passed \| 0 failed/)
  ));
});
