/**
 * The first thing to run where a GPU is at hand, about a minute: `BATON_GPUS=0 deno run -A bench/gpu_probe.ts` prints what it is,
 * copy rates, products over row counts on every path, and what a job costs with and without a captured graph. One JSON line each.
 */
import { describe, Device, DeviceSegment, useCuda } from "../ffi/device.ts";
import { operationSeconds } from "./gpu_ops.ts";

const MATHS = [{ BATON_CUDA_MATH: "fp32" }, { BATON_CUDA_MATH: "bf16" }, {
  BATON_CUDA_MATH: "bf16",
  BATON_CUDA_PRODUCTS: "cublas",
}];
const round = (x: number) => Number(x.toPrecision(3));
const print = (line: object) => console.log(JSON.stringify(line));

/** Products of one path; paths are chosen when the library is opened, so each has a process of its own. */
function products(): void {
  using device = Device.open({ threads: 1 });
  const path = Deno.env.get("BATON_CUDA_PRODUCTS") ?? Deno.env.get("BATON_CUDA_MATH")!;
  const small = describe().gpus?.[0]?.name === "emulation";
  const sizes = small ? [[8, 64, 64]] as const : [
    [1, 4096, 4096],
    [16, 4096, 4096],
    [64, 4096, 4096],
    [
      512,
      4096,
      4096,
    ],
    [4096, 4096, 4096],
    [4096, 14336, 4096],
  ] as const;
  for (const [m, n, k] of sizes) {
    for (const mode of ["forward", "input", "weight"] as const) {
      const seconds = device.productSeconds(mode, m, n, k, 5);
      print({
        probe: "product",
        path,
        mode,
        m,
        n,
        k,
        ms: round(seconds * 1e3),
        TFlops: round(2e-12 * m * n * k / seconds),
      });
    }
  }
}

async function copies(): Promise<void> {
  using device = Device.open({ threads: 1 });
  const bytes = describe().gpus?.[0]?.name === "emulation" ? 1 << 20 : 1 << 30;
  using a = new DeviceSegment(bytes, { near: device });
  using b = new DeviceSegment(bytes, { near: device });
  using host = new DeviceSegment(bytes, "host");
  a.fill(0, bytes, 0x3c);
  for (
    const [name, from, to] of [["device to device", a, b], ["host to device", host, a], [
      "device to host",
      a,
      host,
    ]] as const
  ) {
    const move = { from, to, fromOffset: 0, toOffset: 0, bytes, count: 1, fromStride: 0, toStride: 0 };
    const spans: number[] = [];
    for (let i = 0; i < 6; i++) {
      const { begin, end } = await device.copy([move]).done;
      if (i > 0) spans.push(end - begin);
    }
    const ms = spans.sort((x, y) => x - y)[2]!;
    print({
      probe: "copy",
      name,
      bytes,
      ms: round(ms),
      GBps: round((name === "device to device" ? 2 : 1) * bytes / ms * 1e-6),
    });
  }
  const empty = await operationSeconds(device, "fill", [], [64], [64, 0], 21);
  print({ probe: "smallest operation", microseconds: round(empty * 1e6) });
}

if (import.meta.main) {
  if (!Deno.env.get("BATON_GPUS") && !Deno.env.get("BATON_LIBRARY")) useCuda([0]);
  if (Deno.args[0] === "products") products();
  else {
    print({ probe: "machine", ...describe() });
    await copies();
    for (const env of MATHS) {
      const args = ["run", "-A", "--no-check", new URL(import.meta.url).pathname, "products"];
      const { stdout, stderr, success } = await new Deno.Command(Deno.execPath(), { args, env }).output();
      await Deno.stdout.write(stdout);
      if (!success) {
        print({
          probe: "product",
          ...env,
          failed: new TextDecoder().decode(stderr).trim().split("\n").at(-1),
        });
      }
    }
  }
  Deno.exit(0);
}
