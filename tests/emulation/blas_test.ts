/** Products by cuBLASLt, with a stand-in for it on the host: which it is asked for, and that they are the CPU's. */
import assert from "node:assert/strict";
import { find } from "../../ffi/build.ts";
import { buildEmulation } from "../../ffi/build_cuda.ts";
import { fakeBlas } from "../native/fake_nccl.ts";
import { distances, type Outcome, outcomes, PRODUCTS } from "../native/outcomes.ts";

const emulated = await buildEmulation(() => {}), folder = await fakeBlas();
const KINDS = [...PRODUCTS, "shardLogprob"];

/** What the emulation gives with the stand-in, and a line for every product that this was asked for. */
async function withBlas(kinds: readonly string[], env: Record<string, string> = {}) {
  const log = await Deno.makeTempFile();
  const found = await outcomes(
    { BATON_LIBRARY: emulated, BATON_CUDA_LIBRARIES: folder, BATON_FAKE_BLAS: log, ...env },
    kinds,
  );
  const asked = (await Deno.readTextFile(log)).split("\n").filter((line) => line);
  await Deno.remove(log);
  return { found, asked };
}
const cpu = (kinds: readonly string[]): Promise<Outcome[]> => outcomes({ BATON_LIBRARY: find()! }, kinds);

Deno.test("products by cuBLASLt on weights in rows are those of the CPU, whatever lies across and whatever is continued", async () => {
  const kinds = ["--half", "--rows", ...KINDS];
  const expected = await cpu(kinds),
    { found, asked } = await withBlas(kinds, { BATON_CUDA_PRODUCTS: "cublas" });
  assert.equal(found.length, expected.length);
  for (const { name, relative } of distances(found, expected)) {
    assert.ok(relative < 5e-3, `${name} is ${relative} away`);
  }
  const ways = new Set(asked.map((line) => line.split(" ").slice(3).join(" ")));
  // Forward, the gradient of x and that of the weight, into numbers of both types, from zero and continued.
  for (
    const way of [
      "tn bf16",
      "tn f32",
      "nn bf16",
      "nn bf16 carried",
      "nt bf16",
      "nt f32",
      "nt bf16 carried",
      "nt f32 carried",
    ]
  ) assert.ok(ways.has(way), `${way} is not among ${[...ways].join(", ")}`);
  for (const way of ["tn bf16 bias", "tn f32 bias"]) assert.ok(ways.has(way), way);
  assert.ok(asked.some((line) => line.startsWith("136 200 72 tn")), "the products of the cases");
});

Deno.test("golden models in bf16 train and sample as they should with products by cuBLASLt", async () => {
  const log = await Deno.makeTempFile(), file = new URL("../golden/half_test.ts", import.meta.url).pathname;
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--no-check", file],
    env: {
      NO_COLOR: "1",
      BATON_LIBRARY: emulated,
      BATON_CUDA_LIBRARIES: folder,
      BATON_CUDA_PRODUCTS: "cublas",
      BATON_FAKE_BLAS: log,
    },
  }).output();
  const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert.ok(success, said);
  assert.match(said, /\| 28 passed \| 0 failed/);
  assert.ok((await Deno.stat(log)).size > 10_000, "products by the stand-in");
  await Deno.remove(log);
});

Deno.test("cuBLASLt is asked where it is there, but for the rows of a decode step, and not where it is not wanted", async () => {
  const kinds = ["--half", "--rows", "matmul"], usual = (await withBlas(kinds)).asked;
  const rows = usual.map((line) => Number(line.split(" ")[0]));
  assert.ok(rows.length > 0 && rows.every((m) => m > 16), `rows ${rows}`);
  assert.deepEqual((await withBlas(kinds, { BATON_CUDA_PRODUCTS: "own" })).asked, []);
  assert.deepEqual((await withBlas(kinds, { BATON_CUDA_MATH: "fp32" })).asked, []);
  // Neither in panels nor in fp32 is there anything for it.
  assert.deepEqual((await withBlas(["--half", "matmul"], { BATON_CUDA_PRODUCTS: "cublas" })).asked, []);
  assert.deepEqual((await withBlas(["--rows", "matmul"], { BATON_CUDA_MATH: "bf16" })).asked, []);
});
