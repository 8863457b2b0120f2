/** Memory stays flat: steps allocate nothing that they do not give back, on any device. */
import assert from "node:assert/strict";

/** What the collector and the allocator move about; a leak of one buffer a step is several times as much. */
const MOST = 8 * 2 ** 20;

Deno.test("memory is flat over 200 steps", async () => {
  const script = new URL("scripts/flat.ts", import.meta.url).pathname;
  const args = ["run", "-A", "--no-check", "--quiet", "--v8-flags=--expose-gc", script];
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), { args }).output();
  assert.ok(success, new TextDecoder().decode(stderr));
  const { grown } = JSON.parse(new TextDecoder().decode(stdout)) as { grown: number };
  assert.ok(grown <= MOST, `${Math.round(grown / 2 ** 10)} KiB more after 200 steps`);
});
