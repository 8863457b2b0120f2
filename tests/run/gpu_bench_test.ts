/** The programs for machines with a GPU, tried on the emulated library at small sizes: they end, and say what they found. */
import assert from "node:assert/strict";
import { buildEmulation } from "../../ffi/build_cuda.ts";
import { fakeNccl } from "../native/fake_nccl.ts";
import { ROOT } from "./fixtures.ts";

const emulated = await buildEmulation(() => {});
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

async function ran(args: readonly string[], env: Record<string, string>) {
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", ...args],
    env: { NO_COLOR: "1", BATON_LIBRARY: emulated, ...env },
    cwd: ROOT,
  }).output();
  return { code, out: decode(stdout), err: decode(stderr) };
}

Deno.test("the probe looks at everything, and a part that fails takes no other with it", async () => {
  const out = await Deno.makeTempFile({ suffix: ".json" });
  const nccl = { BATON_CUDA_LIBRARIES: await fakeNccl(), NCCL_MULTI_RANK_GPU_ENABLE: "1" };
  const good = await ran(["bench/gpu_probe.ts", "--out", out], nccl);
  assert.equal(good.code, 0, good.out + good.err);
  const parts: { part: string; failed?: string; lines: unknown[] }[] = JSON.parse(
    await Deno.readTextFile(out),
  );
  assert.ok(parts.length >= 10 && parts.every(({ failed, lines }) => !failed && lines.length > 0));

  const { code, out: text } = await ran(["bench/gpu_probe.ts", "--out", out, "machine", "ranks"], {});
  assert.equal(code, 1);
  assert.match(text, /^machine +\d+ s {2}16 × emulation; CUDA 13\.0; .*nccl missing/m);
  assert.match(text, /^ranks on one GPU, copies +\d+ s {2}2 ranks .* ms, 4 ranks .* ms$/m);
  assert.match(
    text,
    /^ranks on one GPU, NCCL +\d+ s {2}FAILED: Cannot run allReduce: .* no libnccl\.so\.2 /m,
  );
});

Deno.test("the bench runs operations and whole steps, and finds no peer where there is none", async () => {
  const out = await Deno.makeTempFile({ suffix: ".json" });
  const { code, out: text, err } = await ran(["bench/gpu.ts", "--small", "--out", out], {
    BATON_PEER_PYTHON: "/nowhere/python3",
  });
  assert.equal(code, 0, text + err);
  assert.match(text, /^no torch and transformers in \/nowhere\/python3/m);
  assert.match(text, /^operations +\d+ s {2}of the floor: training product /m);
  assert.match(text, /^train 1\.7B +\d+ s {2}\S+ tokens\/s, MFU /m);
  assert.match(text, /^decode 8B x1 +\d+ s {2}\S+ ms a step, /m);
  assert.match(text, /^grpo 1\.7B +\d+ s {2}\S+ s a step: actor\.generate .*actor\.train /m);
});
