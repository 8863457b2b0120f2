/** Collective operations by NCCL, with a stand-in for it: what it is asked for, and what happens when it does not do it. */
import assert from "node:assert/strict";
import { buildEmulation } from "../../ffi/build_cuda.ts";
import { fakeNccl } from "./fake_nccl.ts";

const emulated = await buildEmulation(() => {}), folder = await fakeNccl();
const NCCL = {
  NO_COLOR: "1",
  BATON_LIBRARY: emulated,
  BATON_CUDA_LIBRARIES: folder,
  BATON_CUDA_COLLECTIVES: "nccl",
  NCCL_MULTI_RANK_GPU_ENABLE: "1",
};
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

async function deno(args: readonly string[], env: Record<string, string>): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args],
    env: { ...NCCL, ...env },
  }).output();
  assert.ok(success, decode(stdout) + decode(stderr));
  return decode(stdout);
}
/** How every sum ended, by repetition and rank. */
async function sums(
  env: Record<string, string>,
  { ranks = 3, deadline = 20, repetitions = 1 } = {},
): Promise<(string | number)[][]> {
  const script = new URL("./scripts/run_reductions.ts", import.meta.url).href;
  const args = ["run", "-A", "--no-check", script, `${ranks}`, `${deadline}`, `${repetitions}`];
  return JSON.parse(await deno(args, env));
}
const SUM = "Cannot run sums: operation 0 (allReduce): ";
/** A rank says what happened; others too, or that it did. */
function someSay(found: readonly (string | number)[], what: RegExp): void {
  const own = found.filter((text) => typeof text === "string" && what.test(text));
  assert.ok(own.length > 0, JSON.stringify(found));
  for (const text of found) assert.match(`${text}`, /^Cannot run sums: /);
}

Deno.test("the tests of collective operations pass when NCCL does them", async () => {
  const files = ["collective", "shards"].map((name) =>
    new URL(`./op_${name}_test.ts`, import.meta.url).pathname
  );
  assert.match(await deno(["test", "-A", "--no-check", ...files], {}), /\| 11 passed \| 0 failed/);
});

Deno.test("a communicator is made once, and sums", async () => {
  assert.deepEqual(await sums({}, { repetitions: 3 }), [[6, 6, 6], [6, 6, 6], [6, 6, 6]]);
});

Deno.test("without being asked for NCCL is left out where ranks share a GPU", async () => {
  // The stand-in would fail at its first operation.
  assert.deepEqual(await sums({ BATON_CUDA_COLLECTIVES: "", FAKE_NCCL: "error=1" }), [[6, 6, 6]]);
  assert.deepEqual(await sums({ BATON_CUDA_COLLECTIVES: "copies", FAKE_NCCL: "error=1" }), [[6, 6, 6]]);
});

Deno.test("NCCL that is too old to share a GPU, not allowed to, or not there is one line", async () => {
  const [old] = await sums({ FAKE_NCCL: "version=22809" });
  allSay(
    old!,
    "NCCL 2.28.9 cannot have several ranks on GPU 0, which needs 2.30.3 or newer, or BATON_CUDA_COLLECTIVES=copies",
  );
  const [forbidden] = await sums({ NCCL_MULTI_RANK_GPU_ENABLE: "0" });
  allSay(forbidden!, "several ranks on GPU 0 need NCCL_MULTI_RANK_GPU_ENABLE=1 in the environment");
  const [ancient] = await sums({ FAKE_NCCL: "version=21500" });
  allSay(
    ancient!,
    "BATON_CUDA_COLLECTIVES=nccl: NCCL is of version 2.15.0, 2.18.0 or newer is needed",
  );
});
/** The first rank that fails says so, and so may others, before they hear of it. */
function allSay(found: readonly (string | number)[], what: string): void {
  assert.ok(found.includes(SUM + what), JSON.stringify(found));
  for (const text of found) assert.ok(`${text}`.includes(what), `${text}`);
}

Deno.test("NCCL that does not take its work within the deadline ends the operation on every rank", async () => {
  const [first, second] = await sums({ FAKE_NCCL: "mute=2" }, { deadline: 0.3, repetitions: 2 });
  someSay(first!, /^Cannot run sums: operation 0 \(allReduce\): NCCL did not begin within 0\.3 s$/);
  for (const text of second!) assert.match(`${text}`, /NCCL did not begin within 0\.3 s/);
});

Deno.test("a kernel of NCCL that never ends is aborted after the deadline", async () => {
  const begin = performance.now();
  const [first, second] = await sums({ FAKE_NCCL: "stall=3" }, { deadline: 0.4, repetitions: 2 });
  assert.deepEqual(first, [6, 6, 6]);
  someSay(second!, /^Cannot run sums: operation 0 \(allReduce\): NCCL did not finish within 0\.4 s$/);
  assert.ok(performance.now() - begin < 15_000);
});

Deno.test("a copy that shares no memory with a program ends before it, one that does ends behind it", async () => {
  const script = new URL("./scripts/run_beside.ts", import.meta.url).href;
  const said = await deno(["run", "-A", "--no-check", script], { FAKE_NCCL: "stall=2" });
  assert.equal(said.trim(), "apart well, sum badly, same well");
});

Deno.test("an error that NCCL notices later ends the job and names the operation", async () => {
  const [found] = await sums({ FAKE_NCCL: "error=2" });
  for (const text of found!) {
    assert.match(`${text}`, /remote process exited or there was a network error/);
    assert.match(`${text}`, /^Cannot run sums: /);
  }
});

Deno.test("a rank that never comes is named although NCCL would wait for it", async () => {
  const file = new URL("./groups_test.ts", import.meta.url).pathname;
  const args = ["test", "-A", "--no-check", "--filter", "/never comes|others stop at once/", file];
  assert.match(await deno(args, {}), /\| 2 passed \| 0 failed/);
});
