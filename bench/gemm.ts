/** Speed of the matrix products: `deno run -A bench/gemm.ts [threads]` prints one JSON line per shape. */
import { describe, Device } from "../ffi/device.ts";
import { native } from "../ffi/library.ts";

const MODES = ["x·wᵀ", "dy·w", "dyᵀ·x"] as const;
const PEAK = 3, REPS = 21;
/** [rows, outputs, inputs] */
const SHAPES = [
  [1, 256, 256], [1, 1024, 1024], [1, 4096, 1024], [8, 256, 256], [8, 1024, 256], [8, 4096, 1024], [32, 1024, 1024],
  [128, 1024, 1024], [512, 512, 512], [2048, 256, 256], [2048, 1024, 256], [2048, 256, 1024], [1024, 1024, 1024],
] as const;

const threads = Number(Deno.args[0] ?? 1);
using device = Device.open({ threads });
const seconds = (mode: number, m: number, n: number, k: number) =>
  native().baton_gemm_bench(device.id, mode, m, n, k, REPS);

const peak = 2 * 2 ** 28 / seconds(PEAK, 2 ** 10, 2 ** 9, 2 ** 9);
console.log(JSON.stringify({ isa: describe().isa, threads, peakGFlops: round(peak / 1e9) }));
for (const [m, n, k] of SHAPES) {
  MODES.forEach((mode, index) => {
    const flops = 2 * m * n * k / seconds(index, m, n, k);
    console.log(JSON.stringify({ mode, m, n, k, threads, GFlops: round(flops / 1e9), share: round(flops / peak) }));
  });
}

function round(x: number): number {
  return Number(x.toPrecision(3));
}
