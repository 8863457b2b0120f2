/** Whole runs on `--devices cuda:…` with the emulated CUDA library, against the CPU; and what is said where there is no GPU. */
import assert from "node:assert/strict";
import { Safetensors } from "../../engine/safetensors.ts";
import { find } from "../../ffi/build.ts";
import { buildEmulation } from "../../ffi/build_cuda.ts";
import { fakeBlas, fakeNccl } from "../native/fake_nccl.ts";
import { ROOT, script, succeeds, withWorld } from "../run/fixtures.ts";

const emulated = await buildEmulation(() => {});

const FP32 = ["--precision", "fp32"], SIZE = ["--steps", "2", "--save-every", "0"];

/** Rewards, losses and gradient norms of two steps of PPO. */
const ppo = (world: string, library: string, ...devices: string[]) => ppoWith({}, world, library, ...devices);

async function ppoWith(
  env: Record<string, string>,
  world: string,
  library: string,
  ...devices: string[]
): Promise<Record<string, number>[]> {
  const out = await Deno.makeTempDir({ dir: world });
  await succeeds("ppo.ts", ["--world", world, ...SIZE, "--out", out, "--devices", ...devices], {
    env: { BATON_LIBRARY: library, BATON_CUDA_MATH: "fp32", ...env },
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
    assert.deepEqual(await ppo(world, emulated, "cuda:0", ...FP32), one);
    const four = await ppo(world, emulated, "cuda:0x4", "--strategy", "dp2tp2", ...FP32);
    one.forEach((step, i) => {
      for (const [name, value] of Object.entries(step)) {
        const apart = Math.abs(four[i]![name]! - value);
        assert.ok(apart <= 1e-5 + 1e-3 * Math.abs(value), `${name} of step ${i + 1} is ${apart} away`);
      }
    });
  });
});

/** Calls on other layouts than their models' homes, two at once on disjoint meshes, and a model that lies in host memory between uses. */
const PLAN = {
  cluster: { nodes: 1, devicesPerNode: 4 },
  calls: {
    "actor.generate": { devices: "0-3", dp: 4 },
    "critic.infer": { devices: "0-1", dp: 2 },
    "ref.infer": { devices: "2-3", tp: 2, offload: true },
    "actor.train": { devices: "0-3", dp: 2, tp: 2, zero: 1, recompute: "nothing" },
    "critic.train": { devices: "0-3", dp: 2, pp: 2 },
  },
};

Deno.test("in any order of streams PPO on four devices gives the numbers of four CPU devices, bit for bit", async () => {
  await withWorld(async (world) => {
    const plan = `${world}/plan.json`;
    await Deno.writeTextFile(plan, JSON.stringify(PLAN));
    for (const layout of [["--strategy", "dp2tp2"], ["--plan", plan]]) {
      const cpu = await ppo(world, find()!, "cpu:4", ...layout);
      for (const order of ["lazy", "eager", "3"]) {
        const found = await ppoWith(
          { EMULATION_STREAMS: order },
          world,
          emulated,
          "cuda:0x4",
          ...layout,
          ...FP32,
        );
        assert.deepEqual(found, cpu, `${layout.join(" ")}, ${order}`);
      }
    }
  });
});

Deno.test("on four GPUs that cannot read each other's memory PPO gives those numbers too, through NCCL", async () => {
  const folder = await fakeNccl();
  await withWorld(async (world) => {
    const plan = `${world}/plan.json`;
    await Deno.writeTextFile(plan, JSON.stringify(PLAN));
    const cpu = await ppo(world, find()!, "cpu:4", "--plan", plan);
    for (const order of ["", "eager"]) {
      const env = { BATON_CUDA_LIBRARIES: folder, EMULATION_PEERS: "0", EMULATION_STREAMS: order };
      // The stand-in adds in the order of the ranks, as the CPU does.
      const found = await ppoWith(env, world, emulated, "cuda:0-3", "--plan", plan, ...FP32);
      assert.deepEqual(found, cpu, order);
    }
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
      env = { BATON_CUDA_MATH: "", BATON_CUDA_LIBRARIES: await fakeBlas(), BATON_FAKE_BLAS: log };
    const [, second] = await ppoWith(env, world, emulated, "cuda:0x2", "--strategy", "tp2");
    assert.ok(Object.values(second!).every(Number.isFinite) && second!["actor/gradientNorm"]! > 0);
    const asked = await Deno.readTextFile(log);
    for (const way of ["tn bf16", "tn f32", "nn bf16", "nt f32 carried"]) {
      assert.ok(asked.includes(` ${way}\n`), way);
    }
  });
});

Deno.test("on GPUs numbers are bf16 where nobody says otherwise, on the CPU fp32, and the run says which", async () => {
  await withWorld(async (world) => {
    const said = async (devices: string, library: string, ...more: string[]) => {
      const out = `${world}/${devices}${more.join("")}`;
      const { err } = await succeeds(
        "ppo.ts",
        ["--world", world, ...SIZE, "--out", out, "--devices", devices, ...more],
        { env: { BATON_LIBRARY: library } },
      );
      using file = await Safetensors.open(`${out}/actor`);
      return {
        line: /^precision: .*$/m.exec(err)?.[0],
        exported: file.tensors.get("model.norm.weight")!.dtype,
        report: /· (fp32|bf16[^·<]*?)</.exec(await Deno.readTextFile(`${out}/report.html`))?.[1],
      };
    };
    const half = "bf16 with fp32 gradients, sums and master copies";
    const gpu = { line: `precision: ${half}`, exported: "BF16", report: half };
    assert.deepEqual(await said("cuda:0", emulated), gpu);
    assert.deepEqual(await said("cuda:0", emulated, "--gradients=bf16"), {
      line: "precision: bf16 with bf16 gradients and fp32 sums and master copies",
      exported: "BF16",
      report: "bf16 with bf16 gradients and fp32 sums and master copies",
    });
    const single = { line: "precision: fp32", exported: "F32", report: "fp32" };
    assert.deepEqual(await said("cuda:0", emulated, ...FP32), single);
    assert.deepEqual(await said("cpu:1", find()!), single);
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
