/** Time by operation on GPUs is sampled: which executions are timed, and what they are counted for, on the emulated library. */
import assert from "node:assert/strict";
import { buildEmulation } from "../../ffi/build_cuda.ts";

const emulated = await buildEmulation(() => {});

/** Whether each execution of a program was timed, and the operations that were; `every` as {@link Device.profileEvery} takes it. */
async function timed(every: number | null, count: number) {
  const script = new URL("./scripts/run_profiled.ts", import.meta.url).href;
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", script, String(every), String(count)],
    env: { NO_COLOR: "1", BATON_LIBRARY: emulated },
  }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  return JSON.parse(new TextDecoder().decode(stdout)) as { timed: number[]; kinds: string[]; wrong: number };
}

Deno.test("the fourth execution of a program is timed and from then on every 64th, and all give the same results", async () => {
  const { timed: which, kinds, wrong } = await timed(null, 140);
  assert.deepEqual(which, [4, 68, 132]);
  assert.deepEqual(kinds, ["all", "swiglu"]);
  assert.equal(wrong, 0);
});

Deno.test("every execution is timed where that is asked for, or none", async () => {
  assert.deepEqual((await timed(1, 5)).timed, [1, 2, 3, 4, 5]);
  assert.deepEqual((await timed(3, 10)).timed, [3, 6, 9]);
  assert.deepEqual((await timed(0, 10)).timed, []);
});
