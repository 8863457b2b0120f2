/** The kernels and the runtime of the CUDA backend, compiled for the host, against the CPU backend: the same bits. */
import assert from "node:assert/strict";
import { find } from "../../ffi/build.ts";
import { buildEmulation } from "../../ffi/build_cuda.ts";
import { OPCODE } from "../../ir/op.ts";
import { distances, operationTests, type Outcome, outcomes, PRODUCTS } from "../native/outcomes.ts";

const emulated = await buildEmulation(() => {});

/** Operations that have kernels for tensor cores. */
const TENSOR_CORES = [...PRODUCTS, "attention", "attentionGrad", "keptLogits"];

/** Operations that have kernels in an order of their own where it need not be the CPU's. */
const ROWS = [
  "rmsnorm",
  "addRmsnorm",
  "rmsnormDx",
  "rmsnormDw",
  "rmsnormGrad",
  "columnSum",
  "ropes",
  "ropeKvWrite",
];

const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

const references = new Map<string, Promise<Outcome[]>>();
/** What the CPU backend gives, once for all tests that ask for the same. */
function onCpu(kinds: readonly string[]): Promise<Outcome[]> {
  const key = kinds.join(" ");
  if (!references.has(key)) references.set(key, outcomes({ BATON_LIBRARY: find()! }, kinds));
  return references.get(key)!;
}

/** The same cases on both, side by side. */
async function both(env: Record<string, string>, kinds: readonly string[] = []) {
  const [cpu, gpu] = await Promise.all([onCpu(kinds), outcomes({ BATON_LIBRARY: emulated, ...env }, kinds)]);
  return { cpu, gpu };
}

Deno.test("every operation of the CUDA kernels gives the bits of the CPU, block by block on the host", async () => {
  const { cpu, gpu } = await both({});
  assert.deepEqual(new Set(gpu.map((o) => o.kind)), new Set(Object.keys(OPCODE)));
  assert.equal(gpu.length, cpu.length);
  for (const { name, bits } of distances(gpu, cpu)) assert.equal(bits, 0, `${name} has other bits`);
});

Deno.test("with weights in rows every operation of the CUDA kernels gives the bits of the CPU", async () => {
  for (const half of [[], ["--half"]]) {
    const kinds = [...half, "--rows"], env = { BATON_CUDA_MATH: "fp32" };
    const { cpu, gpu } = await both(env, kinds);
    assert.equal(gpu.length, cpu.length);
    for (const { name, bits } of distances(gpu, cpu)) assert.equal(bits, 0, `${name} has other bits`);
  }
});

Deno.test("with weights in rows products on emulated tensor cores differ by what is rounded in between", async () => {
  for (const [half, most] of [[[], 1e-2], [["--half"], 5e-3]] as const) {
    const kinds = [...half, "--rows", ...TENSOR_CORES];
    const { cpu, gpu } = await both({ BATON_CUDA_MATH: "bf16" }, kinds);
    assert.ok(gpu.length > 20);
    for (const { name, relative } of distances(gpu, cpu)) {
      const allowed = !half.length && /^linearLogprob(Grad|Dx)/.test(name) ? 4e-2 : most;
      assert.ok(relative < allowed, `${name} is ${relative} away`);
    }
  }
});

Deno.test("products and attention on emulated tensor cores stay within what bf16 rounds away", async () => {
  const { cpu, gpu } = await both({ BATON_CUDA_MATH: "bf16" }, TENSOR_CORES);
  for (const { name, bits, relative } of distances(gpu, cpu)) {
    // A gradient of the head carries the error of p = exp(logit − lse) too.
    const most = /^linearLogprob(Grad|Dx)/.test(name) ? 4e-2 : 1e-2;
    assert.ok(relative < most, `${name} is ${relative} away`);
    // Gradients of attention with heads of more than 128 have no kernel for tensor cores.
    const large = name.startsWith("attentionGrad") && name.includes(",256,");
    assert.equal(bits > 0, !large, `${name} ran ${bits > 0 ? "" : "not "}on tensor cores`);
  }
});

Deno.test("with bf16 operands every operation of the CUDA kernels gives the bits of the CPU too", async () => {
  const { cpu, gpu } = await both({ BATON_CUDA_MATH: "fp32" }, ["--half"]);
  assert.equal(gpu.length, cpu.length);
  for (const { name, bits } of distances(gpu, cpu)) assert.equal(bits, 0, `${name} has other bits`);
});

Deno.test("products and attention of bf16 operands on emulated tensor cores differ by what is rounded in between", async () => {
  const kinds = ["--half", ...TENSOR_CORES];
  const { cpu, gpu } = await both({}, kinds);
  for (const { name, relative } of distances(gpu, cpu)) {
    assert.ok(relative < 5e-3, `${name} is ${relative} away`);
  }
});

Deno.test("norms and sums over rows, sixteen bytes at a time, differ from the CPU's by their order alone", async () => {
  for (const [half, most] of [[[], 1e-6], [["--half"], 3e-3]] as const) {
    const { cpu, gpu } = await both({ BATON_CUDA_MATH: "bf16" }, [...half, ...ROWS]);
    const found = distances(gpu, cpu);
    for (const { name, relative } of found) assert.ok(relative < most, `${name} is ${relative} away`);
    // bf16 rounds most of it away.
    for (const kind of half.length ? ["rmsnorm", "rmsnormGrad", "columnSum", "ropes"] : ROWS) {
      assert.ok(found.some(({ name, bits }) => name.startsWith(`${kind}(`) && bits > 0), `${kind} ran so`);
    }
  }
});

Deno.test("gradients of attention take what shared memory a card has", async () => {
  // An A100's blocks have 163 KB, those of smaller cards 99: they have kernels with fewer rows, and none for heads of 256.
  for (const shared of [232448, 166912, 101376]) {
    const { cpu, gpu } = await both({ EMULATION_SHARED: `${shared}` }, ["--half", "attentionGrad"]);
    for (const { name, bits, relative } of distances(gpu, cpu)) {
      const size = Number(name.split(",")[4]), fast = size % 8 === 0 && (size <= 128 || shared > 101376);
      assert.ok(relative < 5e-3, `${name} is ${relative} away`);
      assert.equal(
        bits > 0,
        fast,
        `${name} ran ${bits > 0 ? "" : "not "}on tensor cores with ${shared} bytes`,
      );
    }
  }
});

Deno.test("attention over spans of keys is that of the CPU but for rounding, for every row as for the row alone", async () => {
  for (const [half, most] of [[[], 2e-6], [["--half"], 4e-3]] as const) {
    const kinds = [...half, "pagedAttention"];
    const { cpu, gpu } = await both({ BATON_CUDA_MATH: "bf16" }, kinds);
    const found = distances(gpu, cpu);
    for (const { name, relative } of found) assert.ok(relative < most, `${name} is ${relative} away`);
    assert.ok(found.some(({ bits }) => bits > 0), "it ran over spans");
    assert.ok(found.length >= 6);
  }
  const alone = new URL("../native/op_attention_test.ts", import.meta.url).pathname;
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--no-check", "--filter", "/gives NaN where|any batch/", alone],
    env: { BATON_LIBRARY: emulated, BATON_CUDA_MATH: "bf16", NO_COLOR: "1" },
  }).output();
  assert.ok(success, decode(stdout) + decode(stderr));
  assert.match(decode(stdout), /\| 3 passed \| 0 failed/);
});

Deno.test("the tests of every operation, and of golden models in bf16, pass on the emulated CUDA backend", async () => {
  const files = [...operationTests(), new URL("../golden/half_test.ts", import.meta.url).pathname];
  // Two processes: files side by side in one would share the library's jobs.
  const half = files.length >> 1;
  await Promise.all([files.slice(0, half), files.slice(half)].map(async (some) => {
    const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
      args: ["test", "-A", "--no-check", ...some],
      env: { BATON_LIBRARY: emulated, NO_COLOR: "1" },
    }).output();
    assert.ok(success, decode(stdout) + decode(stderr));
    assert.match(decode(stdout), /\| [1-9]\d* passed \| 0 failed/);
  }));
});
