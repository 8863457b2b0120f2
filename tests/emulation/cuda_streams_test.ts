/**
 * Two streams a device: what runs beside what on an emulation whose streams put their work off until something waits for it, in
 * orders that bring out waits that are missing, against the CPU, which does one job after the other.
 */
import assert from "node:assert/strict";
import { find } from "../../ffi/build.ts";
import { buildEmulation } from "../../ffi/build_cuda.ts";

const emulated = await buildEmulation(() => {});
/** See `cuda/emulation/streams.cpp`; nothing is a stream that runs at once. */
const ORDERS = ["", "lazy", "eager", "1", "2"];
const decode = (bytes: Uint8Array) => new TextDecoder().decode(bytes);

async function deno(args: readonly string[], env: Record<string, string>): Promise<string> {
  const { success, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: [...args],
    env: { NO_COLOR: "1", ...env },
  }).output();
  assert.ok(success, `${JSON.stringify(env)}\n${decode(stdout)}${decode(stderr)}`);
  return decode(stdout);
}

const hazards = (seed: number, env: Record<string, string>): Promise<string> =>
  deno([
    ...["run", "-A", "--no-check", new URL("../native/scripts/run_hazards.ts", import.meta.url).href],
    ...[`${seed}`, "12"],
  ], env);

Deno.test("programs, their collective operations and copies beside each other leave what one after the other leaves", async () => {
  for (const seed of [5, 6, 7]) {
    const expected = await hazards(seed, { BATON_LIBRARY: find()! });
    assert.equal(new Set(expected.trim().split("\n")).size, 12);
    for (const order of ORDERS) {
      const found = await hazards(seed, { BATON_LIBRARY: emulated, EMULATION_STREAMS: order });
      assert.equal(found, expected, `seed ${seed}, order ${order || "at once"}`);
    }
  }
});

Deno.test("the tests of jobs, groups of ranks and collective operations pass in every order", async () => {
  const files = ["jobs", "op_collective", "op_shards"].map((name) =>
    new URL(`../native/${name}_test.ts`, import.meta.url).pathname
  );
  // It asks for minutes of emulated kernels.
  const filter = ["--filter", "/^([^a]|a [^c]|all)/"];
  for (const order of ORDERS.slice(1, 4)) {
    const env = { BATON_LIBRARY: emulated, EMULATION_STREAMS: order };
    assert.match(
      await deno(["test", "-A", "--no-check", ...filter, ...files], env),
      /\| [1-9]\d* passed \| 0 failed/,
    );
  }
});

Deno.test("gradients that are summed beside the backward pass are whole before the update, in every order", async () => {
  const file = new URL("../cluster/overlap_test.ts", import.meta.url).pathname;
  const filter = ["--filter", "/llama dp2 (tp2 pp1|tp1 pp2)/"];
  for (const order of ["lazy", "eager"]) {
    const env = { BATON_LIBRARY: emulated, BATON_CUDA_MATH: "fp32", EMULATION_STREAMS: order };
    assert.match(await deno(["test", "-A", "--no-check", ...filter, file], env), /\| 2 passed \| 0 failed/);
  }
});
