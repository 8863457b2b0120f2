/** The kernels and the runtime of the CUDA backend, compiled for the host, against the CPU backend: the same bits. */
import assert from "node:assert/strict";
import { find } from "../../ffi/build.ts";
import { buildEmulation } from "../../ffi/build_cuda.ts";
import { OPCODE } from "../../ir/op.ts";

const emulated = await buildEmulation(() => {});

async function deno(args: readonly string[], library: string): Promise<Deno.CommandOutput> {
  const env = { BATON_LIBRARY: library, NO_COLOR: "1" };
  return await new Deno.Command(Deno.execPath(), { args: [...args], env }).output();
}
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

interface Outcome {
  readonly kind: string;
  readonly attrs: readonly unknown[];
  readonly words: readonly (readonly number[])[];
}
async function outcomes(library: string): Promise<Outcome[]> {
  const script = new URL("./scripts/run_cases.ts", import.meta.url).href;
  const { success, stdout, stderr } = await deno(["run", "-A", "--no-check", script], library);
  assert.ok(success, decode(stderr));
  return decode(stdout).trim().split("\n").map((line) => JSON.parse(line));
}

const isNaN = (word: number) => (word & 0x7fffffff) > 0x7f800000;

Deno.test("every operation of the CUDA kernels gives the bits of the CPU, block by block on the host", async () => {
  const cpu = await outcomes(find()!), gpu = await outcomes(emulated);
  assert.deepEqual(new Set(gpu.map((o) => o.kind)), new Set(Object.keys(OPCODE)));
  assert.equal(gpu.length, cpu.length);
  gpu.forEach(({ kind, attrs, words }, i) =>
    words.forEach((output, k) =>
      output.forEach((word, j) => {
        const expected = cpu[i]!.words[k]![j]!;
        const same = word === expected || (isNaN(word) && isNaN(expected));
        assert.ok(
          same,
          `${kind} ${JSON.stringify(attrs)}, output ${k}, element ${j}: ${word} and ${expected}`,
        );
      })
    )
  );
});

Deno.test("the tests of every operation pass on the emulated CUDA backend", async () => {
  const files = ["attention", "collective", "head", "matmul", "norm", "optimizer", "rows", "sample", "shards"]
    .map((name) => new URL(`./op_${name}_test.ts`, import.meta.url).pathname);
  const { success, stdout, stderr } = await deno(["test", "-A", "--no-check", ...files], emulated);
  assert.ok(success, decode(stdout) + decode(stderr));
  assert.match(decode(stdout), /\| [1-9]\d* passed \| 0 failed/);
});
