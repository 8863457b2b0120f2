/** What the commands for GPUs share: libraries that are built once, and checks as parts. */
import { MEMORY } from "../bench/gpu_parts.ts";
import { type Part, script } from "../bench/parts.ts";
import { build } from "../ffi/build.ts";
import { buildCuda, buildEmulation } from "../ffi/build_cuda.ts";
import { describeCuda } from "../ffi/cuda.ts";
import { CHECKS } from "./gpu_checks.ts";

/** A check that takes longer hangs, on a GPU; the emulation is slow. */
const CHECK_SECONDS = 180, EMULATED_SECONDS = 600;

/**
 * Builds both libraries; every process that is started afterwards finds them.
 *
 * @returns why there is no GPU to work with, or null
 */
export async function prepareGpu(emulation: boolean): Promise<string | null> {
  await build(console.error);
  if (emulation) {
    Deno.env.set("BATON_LIBRARY", await buildEmulation(console.error));
    return null;
  }
  try {
    await buildCuda(console.error);
  } catch (error) {
    return (error as Error).message.replace(/^Cannot [^:]*: /, "");
  }
  const found = describeCuda();
  return found ? found.missing || null : "the CUDA library cannot be opened, see deno task doctor";
}

/** The checks as parts, and memory beside the byte table among them. */
export function checkParts(emulation: boolean): Part[] {
  const seconds = emulation ? EMULATED_SECONDS : CHECK_SECONDS;
  const path = new URL("./gpu_checks.ts", import.meta.url).pathname;
  return [
    ...CHECKS.filter((c) => c.emulated || !emulation).map(({ name }): Part => ({
      name,
      command: script(path, ...emulation ? ["--emulation"] : [], name),
      seconds,
    })),
    ...MEMORY,
  ];
}
