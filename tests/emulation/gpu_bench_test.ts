/** The programs for machines with a GPU, tried on the emulated library at small sizes: they end, and say what they found. */
import assert from "node:assert/strict";
import { runPart } from "../../bench/parts.ts";
import { buildEmulation } from "../../ffi/build_cuda.ts";
import { FIRST, gpuParts } from "../../tools/gpu_order.ts";
import { fakeNccl } from "../native/fake_nccl.ts";
import { ROOT } from "../run/fixtures.ts";

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
  assert.match(text, /^joined products +\d+ s {2}one by one over joined: q, k and v tiny x1 /m);
  assert.match(text, /^train 1\.7B +\d+ s {2}\S+ tokens\/s, MFU /m);
  assert.match(text, /^decode 8B x1 +\d+ s {2}\S+ ms a step, /m);
  assert.match(text, /^grpo 1\.7B +\d+ s {2}\S+ s a step: actor\.generate .*actor\.train /m);
  assert.match(text, /^memory, devices on a GPU: 4 +\d+ s {2}\d+ MiB taken, /m);
});

Deno.test("a GPU's memory shrinks by what the byte table says, on one device and on four, and by nothing after the start", async () => {
  for (const ranks of [1, 4]) {
    const { code, out, err } = await ran(["bench/gpu_memory.ts", String(ranks)], {});
    assert.equal(code, 0, out + err);
    const { table, allocated, grown } = JSON.parse(out) as Record<string, number>;
    // Memory of groups is the host's in the emulation, and a fault's place is in no table.
    assert.ok(
      grown! <= table! + 4096 && grown! >= table! - ranks * 2 ** 20,
      `${grown}, the table says ${table}`,
    );
    assert.equal(grown, allocated);
  }
});

Deno.test("what comes first on a GPU is there", () => {
  const names = gpuParts({ emulation: false, python: null }).map(({ name }) => name);
  assert.deepEqual(names.slice(0, FIRST.length), FIRST);
});

Deno.test("one command runs what is worth most first for as long as there is time, and writes a table", async () => {
  const folder = await Deno.makeTempDir(), out = `${folder}/gpu`;
  const parts = "^(probe: (machine|ranks on one GPU, NCCL)|check: (memory.* 1|PPO of two)|bench: train 1)";
  const run = (minutes: string) =>
    ran(["tools/gpu.ts", "--emulation", "--out", out, "--minutes", minutes, "--only", parts], {
      BATON_PEER_PYTHON: "/nowhere/python3",
    });
  const all = await run("9");
  assert.equal(all.code, 1, all.out + all.err);
  const { outcomes, skipped, commit } = JSON.parse(await Deno.readTextFile(`${out}.json`));
  const found = (outcomes as { part: string; failed?: string }[]).map(({ part, failed }) => [part, failed]);
  assert.deepEqual(found.slice(0, -1), [
    ["probe: machine", undefined],
    ["check: PPO of two tiny layers, cuda:0 and cuda:0x4", undefined],
    ["check: memory, devices on a GPU: 1", undefined],
    ["bench: train 1.7B", undefined],
  ]);
  assert.equal(found.at(-1)![0], "probe: ranks on one GPU, NCCL");
  assert.match(found.at(-1)![1]!, /no libnccl\.so\.2 in/);
  assert.deepEqual(skipped, []);
  const page = await Deno.readTextFile(`${out}.md`);
  assert.match(page, new RegExp(`^\\d{4}-\\d\\d-\\d\\d, commit ${commit}, 16 × emulation; CUDA 13`));
  assert.match(page, /^\| bench: train 1\.7B \| \d+ \| \S+ tokens\/s, MFU /m);
  assert.match(page, /^\| probe: ranks on one GPU, NCCL \| \d+ \| FAILED: /m);

  const none = await run("0.1");
  assert.equal(none.code, 0, none.out + none.err);
  assert.match(
    await Deno.readTextFile(`${out}.md`),
    /Left out for want of time: probe: machine; check: PPO /,
  );
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a part that does not end is ended, and what it had said is kept", async () => {
  const code = 'console.log(JSON.stringify({ what: "begun" })); setInterval(() => {}, 1000);';
  const { lines, failed } = await runPart({
    name: "endless",
    command: [Deno.execPath(), "eval", code],
    seconds: 3,
  });
  assert.deepEqual([lines.map((l) => l.what), failed], [["begun"], "it took more than 3 s"]);
});
