/**
 * Part of `deno task test:gpu` and `bench:gpu`, `gpu_memory.ts 1` or `4` devices: what the first GPU's free memory shrinks by in some steps of GRPO, beside what the byte
 * table says. Fails when it is more than the table, what is stated for driver and libraries, and 3 %.
 */
import { batchOf } from "../engine/batch.ts";
import { Devices } from "../engine/devices.ts";
import { describe } from "../ffi/device.ts";
import { LIBRARY_BYTES, openGpus } from "../ffi/gpus.ts";
import type { ParallelStrategy } from "../ir/plan.ts";
import { benchSequences, benchStage, promptRows } from "./cases.ts";
import { randomWeights, shapeConfig } from "./gpu_models.ts";
import { grpoFlow, grpoSizes } from "./gpu_flows.ts";

const STEPS = 3;
const free = (): number => describe().gpus![0]!.freeBytes;
const mebibytes = (bytes: number): number => Math.round(bytes / 2 ** 20);

openGpus([0]);
const small = describe().gpus?.[0]?.name === "emulation", shape = small ? "tiny" : "0.6B";
const [count, samples, prompt, response] = small ? [4, 2, 6, 6] : [16, 8, 128, 256];
const flow = grpoFlow({ count, samples, response });
const sizes = grpoSizes({ count, samples, prompt, response });
const four = Deno.args[0] === "4",
  strategy: ParallelStrategy = four ? { dp: 2, tp: 2, pp: 1 } : { dp: 1, tp: 1, pp: 1 };
const ranks = four ? 4 : 1, before = free();
const devices = Devices.open({ count: ranks, threads: 1, gpus: Array.from({ length: ranks }, () => 0) });
const config = shapeConfig(shape, sizes.longest);
let table = 0;
const stage = await benchStage(devices, flow, config, sizes, {
  strategy,
  microBatchTokens: small ? 60 : 8192,
  load: () => Promise.resolve(),
  onMemory: (rows) => table = rows.reduce((n, r) => n + (r.where === "device" ? r.bytes : 0), 0),
});
await randomWeights(stage, devices.all[0]!);
const allocated = before - free(), rows = promptRows(benchSequences(config, count, prompt));
for (let i = 0; i < STEPS; i++) await stage.step(i, batchOf(rows, samples));
const grown = before - free(), most = Math.floor(1.03 * table) + LIBRARY_BYTES;
console.log(JSON.stringify({
  what: `${mebibytes(grown)} MiB taken, ${mebibytes(table)} in the byte table, ${
    mebibytes(grown - table)
  } beside it (${mebibytes(LIBRARY_BYTES)} and 3 % allowed)`,
  ranks,
  table,
  allocated,
  grown,
  most,
}));
if (grown > most) console.error(`error: ${ranks} devices take ${grown} bytes of a GPU, ${most} are allowed`);
Deno.exit(grown > most ? 1 : 0);
