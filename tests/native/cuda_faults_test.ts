/** What is said when a kernel touches memory that is not there: the emulated library makes one do so. */
import assert from "node:assert/strict";
import { buildEmulation } from "../../ffi/build_cuda.ts";

const emulated = await buildEmulation(() => {});

/** Errors of the jobs of scripts/run_faulty.ts when the N-th kernel of the process faults. */
async function errors(kernel: number, env: Record<string, string> = {}): Promise<(string | null)[]> {
  const script = new URL("./scripts/run_faulty.ts", import.meta.url).href;
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", script],
    env: { NO_COLOR: "1", BATON_LIBRARY: emulated, EMULATION_FAULT: `${kernel}`, ...env },
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  return JSON.parse(new TextDecoder().decode(stdout));
}
const ILLEGAL = "the GPU said: an illegal memory access was encountered";

Deno.test("an illegal access names the call and the operation, and ends what comes after it", async () => {
  // Every job is 40 operations.
  const [first, ...later] = await errors(5);
  assert.equal(first, `Cannot run job 1: ${ILLEGAL}, while this device was at operation 4 (fill)`);
  for (const error of later) {
    assert.match(error!, /^Cannot run job \d: the GPU said: an illegal memory access/);
  }
});

Deno.test("in a program that is replayed an illegal access is known within sixteen operations", async () => {
  // The third run replays what the second one has captured.
  const all = await errors(80 + 20);
  assert.deepEqual(all.slice(0, 2), [null, null]);
  assert.equal(
    all[2],
    `Cannot run job 3: ${ILLEGAL}, while this device was at operation 16 (fill) or one of those up to 31; ` +
      "BATON_CUDA_CHECK=1 says which",
  );
});

Deno.test("BATON_CUDA_CHECK=1 names the operation of every run", async () => {
  const all = await errors(80 + 20, { BATON_CUDA_CHECK: "1" });
  assert.equal(all[2], `Cannot run job 3: operation 19 (swiglu): ${ILLEGAL}`);
});
