/** Whole runs on `--devices cuda:…` with the emulated CUDA library, against the CPU; and what is said where there is no GPU. */
import assert from "node:assert/strict";
import { find } from "../../ffi/build.ts";
import { buildEmulation } from "../../ffi/build_cuda.ts";
import { fakeBlas } from "../native/fake_blas.ts";
import { ROOT, script, succeeds, withWorld } from "./fixtures.ts";

const emulated = await buildEmulation(() => {});

/** Rewards, losses and gradient norms of two steps of PPO. */
async function ppo(
  world: string,
  library: string | Record<string, string>,
  ...devices: string[]
): Promise<Record<string, number>[]> {
  const out = `${world}/${devices.join()}`;
  const size = ["--steps", "2", "--save-every", "0"];
  await succeeds("ppo.ts", ["--world", world, ...size, "--out", out, "--devices", ...devices], {
    env: typeof library === "string" ? { BATON_LIBRARY: library, BATON_CUDA_MATH: "fp32" } : library,
  });
  const lines = (await Deno.readTextFile(`${out}/metrics.jsonl`)).trim().split("\n");
  return lines.map((line) =>
    Object.fromEntries(
      Object.entries(JSON.parse(line) as Record<string, number>).filter(([k]) =>
        /^(reward|length|entropy|.*\/(loss|gradientNorm|approxKl))$/.test(k)
      ),
    )
  );
}

Deno.test("PPO on cuda:0 gives the numbers of cpu:1, and on cuda:0x4 those of any plan", async () => {
  await withWorld(async (world) => {
    const one = await ppo(world, find()!, "cpu:1");
    assert.ok(one[1]!["actor/gradientNorm"]! > 0);
    assert.deepEqual(await ppo(world, emulated, "cuda:0"), one);
    const four = await ppo(world, emulated, "cuda:0x4", "--strategy", "dp2tp2");
    one.forEach((step, i) => {
      for (const [name, value] of Object.entries(step)) {
        const apart = Math.abs(four[i]![name]! - value);
        assert.ok(apart <= 1e-5 + 1e-3 * Math.abs(value), `${name} of step ${i + 1} is ${apart} away`);
      }
    });
  });
});

Deno.test("PPO in bf16 on cuda:0 gives the numbers of cpu:1 too, where products are computed in fp32", async () => {
  await withWorld(async (world) => {
    const precision = ["--precision", "bf16", "--gradients", "bf16"],
      one = await ppo(world, find()!, "cpu:1", ...precision);
    assert.ok(one[1]!["actor/gradientNorm"]! > 0);
    assert.deepEqual(await ppo(world, emulated, "cuda:0", ...precision), one);
  });
});

Deno.test("PPO in bf16 on a GPU has its weights in rows, and cuBLASLt does its products", async () => {
  await withWorld(async (world) => {
    const log = `${world}/products`,
      library = {
        BATON_LIBRARY: emulated,
        BATON_CUDA_LIBRARIES: await fakeBlas(),
        BATON_FAKE_BLAS: log,
      };
    const [, second] = await ppo(world, library, "cuda:0x2", "--precision", "bf16", "--strategy", "tp2");
    assert.ok(Object.values(second!).every(Number.isFinite) && second!["actor/gradientNorm"]! > 0);
    const asked = await Deno.readTextFile(log);
    for (const way of ["tn bf16", "tn f32", "nn bf16", "nt f32 carried"]) {
      assert.ok(asked.includes(` ${way}\n`), way);
    }
  });
});

Deno.test("a GPU that cannot be had is one line that says why", async () => {
  await withWorld(async (world) => {
    const said = async (devices: string, env: Record<string, string>) => {
      const { code, err } = await script("ppo.ts", ["--world", world, "--steps", "1", "--devices", devices], {
        cwd: ROOT,
        env,
      });
      assert.equal(code, 1, err);
      return err;
    };
    assert.match(
      await said("cuda:16", { BATON_LIBRARY: emulated }),
      /^error: Cannot open cuda:16: there are 16 GPUs, use numbers from 0 to 15\n$/,
    );
    assert.match(
      await said("cuda:0x4", { BATON_LIBRARY: find()! }),
      /^error: Cannot open cuda:0x4: BATON_LIBRARY names a library for the CPU, [^\n]*\n$/,
    );
    assert.match(
      await said("cuda:0,0-1x2,x", {}),
      /^error: Cannot run ppo: devices is "cuda:0,0-1x2,x", it must be [^\n]*\n$/,
    );
  });
});

Deno.test({
  name: "without a driver a run on a GPU says so before anything is built",
  ignore: (() => {
    try {
      Deno.dlopen("libcuda.so.1", {}).close();
      return true;
    } catch {
      return false;
    }
  })(),
  fn: async () => {
    await withWorld(async (world) => {
      const { code, err } = await script("ppo.ts", ["--world", world, "--steps", "1", "--devices", "cuda:0"]);
      assert.equal(code, 1);
      assert.match(
        err,
        /^error: Cannot open cuda:0: no CUDA driver: libcuda\.so\.1 cannot be loaded, install NVIDIA's driver\n$/,
      );
    });
  },
});
