/** The GPUs that a run was given: chosen, looked at, and refused in one line when they cannot be had. */
import { printGpus } from "../ir/notation.ts";
import { findCuda, findToolkit } from "./build_cuda.ts";
import { describe, type Gpu } from "./device.ts";
import { useCuda } from "./library.ts";

/**
 * What driver and libraries take of a GPU beside the byte table once the process is known to it: code of kernels, captured graphs,
 * events, handles. Stated, not measured.
 */
export const LIBRARY_BYTES = 512 * 2 ** 20;

/** Bytes of a GPU that the rows of the byte table may have. */
export const usableBytes = ({ freeBytes }: Pick<Gpu, "freeBytes">): number =>
  Math.max(0, freeBytes - LIBRARY_BYTES);

/**
 * Makes CUDA the backend of this process and finds the GPUs that devices will be on.
 *
 * @param gpus the GPU of every device
 * @returns the GPUs of this machine by number
 * @throws Error "Cannot open cuda:0: …" without a driver, a library, a compiler to build it, or such a GPU
 */
export function openGpus(gpus: readonly number[]): readonly Gpu[] {
  const name = printGpus(gpus),
    refuse = (why: string, cause?: unknown): never => {
      throw new Error(`Cannot open ${name}: ${why}`, { cause });
    };
  const lacking = Deno.env.get("BATON_LIBRARY") ? undefined : lackingHere();
  if (lacking) refuse(lacking);
  let found;
  try {
    useCuda(gpus);
    found = describe();
  } catch (cause) {
    return refuse(
      cause instanceof Error ? cause.message.replace(/^Cannot [^:]*: /, "") : String(cause),
      cause,
    );
  }
  if (found.backend !== "cuda") {
    refuse("BATON_LIBRARY names a library for the CPU, leave it out or name another");
  }
  if (found.missing) refuse(found.missing);
  const all = found.gpus ?? [], absent = gpus.find((gpu) => gpu >= all.length);
  if (absent !== undefined) {
    refuse(
      all.length === 1
        ? `there is one GPU, use cuda:0`
        : `there are ${all.length} GPUs, use numbers from 0 to ${all.length - 1}`,
    );
  }
  return all;
}

/** What has to be there before a library is built, which takes minutes. */
function lackingHere(): string | undefined {
  try {
    Deno.dlopen("libcuda.so.1", {}).close();
  } catch {
    return "no CUDA driver: libcuda.so.1 cannot be loaded, install NVIDIA's driver";
  }
  const toolkit = findCuda() === null ? findToolkit() : null;
  return typeof toolkit === "string" ? `the CUDA library is not built and there is ${toolkit}` : undefined;
}
