/** What `baton doctor` says of GPUs: the emulation's sixteen, and what a stand-in for NVML says of their links. */
import assert from "node:assert/strict";
import { buildEmulation } from "../../ffi/build_cuda.ts";
import type { Check } from "../../cli/diagnosis.ts";
import { fakeNccl, fakeNvml } from "./fake_nccl.ts";

const emulated = await buildEmulation(() => {}), root = new URL("../../", import.meta.url);

async function doctor(env: Record<string, string>, ...args: string[]): Promise<string> {
  const { stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--no-check", "cli/main.ts", "doctor", ...args],
    env: { NO_COLOR: "1", BATON_LIBRARY: emulated, ...env },
    cwd: root,
  }).output();
  assert.equal(new TextDecoder().decode(stderr), "");
  return new TextDecoder().decode(stdout).trim();
}

/** Checks by name. */
const found = async (env: Record<string, string>) =>
  new Map(
    (await doctor(env, "--json")).split("\n").map((line) => JSON.parse(line) as Check).map((
      c,
    ) => [c.name, c]),
  );

Deno.test("doctor says what GPUs are, what joins them and where libraries are", async () => {
  const nccl = await fakeNccl(), libraries = `${await fakeNvml()}:${nccl}`;
  const mesh = await found({ BATON_CUDA_LIBRARIES: libraries, FAKE_NVML: "mesh" });
  assert.equal(mesh.get("CUDA library")!.found, "built, driver 580.1.2 for CUDA 13.0");
  assert.equal(
    mesh.get("GPU 2")!.found,
    "emulation, compute capability 9.0, 4 multiprocessors, 64.0 GiB of 64.0 GiB free, bus 0000:03:00.0, PCIe 5.0 ×16, 18 NVLinks",
  );
  assert.equal(mesh.get("links")!.found, "NVLink between all GPUs");
  assert.equal(mesh.get("peer access")!.found, "every GPU reads the memory of every other one");
  assert.match(mesh.get("nccl")!.found, /^2\.\d+\.\d+ \(.*libnccl\.so\.2\)$/);
  assert.ok(mesh.get("nccl")!.found.includes(nccl));
  for (const name of ["cublasLt", "cudnn", "nvrtc"]) {
    assert.match(
      mesh.get(name)!.fix!,
      /^no lib\w+\.so\.\d+ in .*, install it or name its folder in BATON_CUDA_LIBRARIES$/,
    );
  }

  const pairs = (await found({ BATON_CUDA_LIBRARIES: libraries })).get("links")!;
  assert.match(
    pairs.found,
    /^NVLink: 0–1 2–3 4–5 .*14–15; one PCIe switch: 0–2 0–3 1–2 .*; PCIe between NUMA nodes: 0–4 /,
  );

  const text = await doctor({ BATON_CUDA_LIBRARIES: libraries, FAKE_NVML: "mesh" });
  assert.match(text, /^✓ GPU 15 +emulation, /m);
  assert.match(text, /^✓ links +NVLink between all GPUs$/m);
});

Deno.test("without NVML doctor says where it was looked for, and still who reads whose memory", async () => {
  const without = await found({ BATON_CUDA_LIBRARIES: "/nowhere" });
  assert.equal(without.get("links")!.state, "optional");
  assert.match(
    without.get("links")!.fix!,
    /^no libnvidia-ml\.so\.1 in \/nowhere, the system's folders; it comes with NVIDIA's driver$/,
  );
  assert.equal(without.get("peer access")!.found, "every GPU reads the memory of every other one");
  assert.match(without.get("GPU 0")!.found, /bus 0000:01:00\.0$/);
});
