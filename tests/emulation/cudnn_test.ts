/** Attention by cuDNN, with a stand-in for it on the host that computes the graphs it is given: that they are attention. */
import assert from "node:assert/strict";
import { find } from "../../ffi/build.ts";
import { buildEmulation } from "../../ffi/build_cuda.ts";
import { distances, outcomes } from "../native/outcomes.ts";
import { standIn } from "../native/stand_in.ts";

const emulated = await buildEmulation(() => {});
const folder = await standIn("cuDNN", "cudnn/fake_cudnn.cpp", "libcudnn.so.9");
const KINDS = ["--half", "attention", "attentionGrad"];
const CUDNN = { BATON_LIBRARY: emulated, BATON_CUDA_LIBRARIES: folder, BATON_CUDA_ATTENTION: "cudnn" };

/** Lines for every run of a graph. */
async function asked(env: Record<string, string>, kinds = KINDS) {
  const log = await Deno.makeTempFile();
  const found = await outcomes({ ...env, BATON_FAKE_CUDNN: log }, kinds);
  const lines = (await Deno.readTextFile(log)).split("\n").filter((line) => line);
  await Deno.remove(log);
  return { found, lines };
}

Deno.test("the graphs for cuDNN are attention and its gradients: grouped heads, windows, sequences of no token", async () => {
  const cpu = await outcomes({ BATON_LIBRARY: find()! }, KINDS), { found, lines } = await asked(CUDNN);
  for (const { name, relative } of distances(found, cpu)) {
    assert.ok(relative < 5e-3, `${name} is ${relative} away`);
  }
  // With and without a window, with and without groups of heads, but for head sizes that are no multiples of sixteen. Each runs twice.
  assert.deepEqual([...new Set(lines)].sort(), [20, 25, 28, 30, 33, 35].map((n) => `${n} operations`));
  const multiples = cpu.filter(({ attrs }) => Number(attrs[4]) % 16 === 0).length;
  assert.equal(lines.length, 2 * multiples);
});

/** What a library says to stderr while attention runs. */
async function said(env: Record<string, string>): Promise<string> {
  const script = new URL("../native/scripts/run_cases.ts", import.meta.url).href;
  const { success, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", script, "--half", "attention"],
    env: { NO_COLOR: "1", ...env },
  }).output();
  assert.ok(success);
  return new TextDecoder().decode(stderr);
}

Deno.test("where cuDNN is missing, too old or has no engine, own kernels run and one line says why", async () => {
  const line = (why: string) =>
    `Attention is computed by Baton's own kernels where BATON_CUDA_ATTENTION=cudnn asked for cuDNN: ${why}\n`;
  assert.equal(
    await said({ ...CUDNN, BATON_CUDA_LIBRARIES: "/nowhere" }),
    line(
      "no libcudnn.so.9 in /nowhere or the system's folders, install it or name its folder in BATON_CUDA_LIBRARIES",
    ),
  );
  assert.equal(
    await said({ ...CUDNN, FAKE_CUDNN: "old" }),
    line("cuDNN 90300 is older than 91002, install a newer one"),
  );
  const none = { ...CUDNN, FAKE_CUDNN: "none" };
  assert.equal(
    await said(none),
    line("it takes head sizes up to 256 that are multiples of 16") +
      line("cuDNN has no engine for this graph"),
  );
  const { found, lines } = await asked(none);
  assert.deepEqual(lines, []);
  assert.deepEqual(found, await outcomes({ BATON_LIBRARY: emulated }, KINDS));
});

Deno.test("cuDNN is not asked unless it is named, nor in fp32", async () => {
  const { BATON_CUDA_ATTENTION: _, ...usual } = CUDNN, kinds = ["--half", "attention"];
  assert.deepEqual((await asked(usual, kinds)).lines, []);
  assert.deepEqual((await asked({ ...CUDNN, BATON_CUDA_MATH: "fp32" }, kinds)).lines, []);
});

Deno.test("golden models in bf16 train and sample as they should with attention by cuDNN", async () => {
  const log = await Deno.makeTempFile(), file = new URL("../golden/half_test.ts", import.meta.url).pathname;
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["test", "-A", "--no-check", file],
    env: { NO_COLOR: "1", BATON_FAKE_CUDNN: log, ...CUDNN },
  }).output();
  const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
  assert.ok(success, said);
  assert.match(said, /\| 28 passed \| 0 failed/);
  // Of those whose heads have a size that cuDNN takes, all in groups.
  const lines = new Set((await Deno.readTextFile(log)).trim().split("\n"));
  await Deno.remove(log);
  assert.deepEqual([...lines].sort(), ["20 operations", "30 operations"]);
});
