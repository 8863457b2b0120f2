/** Speed of the matrix products: `deno run -A bench/gemm.ts [threads]` prints one JSON line per shape. */
import { describe, Device } from "../ffi/device.ts";

const MODES = { "x·wᵀ": "forward", "dy·w": "input", "dyᵀ·x": "weight" } as const;
const REPETITIONS = 21;
/** [rows, outputs, inputs]: a few rows are a decode step, 2048 a training micro-batch. */
const SHAPES = [
  [1, 256, 256],
  [1, 1024, 1024],
  [1, 4096, 1024],
  [8, 256, 256],
  [8, 1024, 256],
  [8, 4096, 1024],
  [32, 1024, 1024],
  [128, 1024, 1024],
  [512, 512, 512],
  [2048, 256, 256],
  [2048, 1024, 256],
  [2048, 256, 1024],
  [1024, 1024, 1024],
] as const;

const threads = Number(Deno.args[0] ?? 1);
using device = Device.open({ threads });
const rate = (mode: Parameters<Device["productSeconds"]>[0], m: number, n: number, k: number) =>
  2e-9 * m * n * k / device.productSeconds(mode, m, n, k, REPETITIONS);
const round = (x: number) => Number(x.toPrecision(3));

// Short runs, and the best of some: a neighbour on the machine must not lower the bar.
const peak = Math.max(...Array.from({ length: 9 }, () => rate("peak", 256, 256, 256)));
console.log(JSON.stringify({ isa: describe().isa, threads, peakGFlops: round(peak) }));
for (const [m, n, k] of SHAPES) {
  for (const [mode, name] of Object.entries(MODES)) {
    const GFlops = rate(name, m, n, k);
    console.log(
      JSON.stringify({ mode, m, n, k, threads, GFlops: round(GFlops), share: round(GFlops / peak) }),
    );
  }
}
