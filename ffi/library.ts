/** Finds, builds on first use, and opens the native library: the CPU's, or the one for CUDA when that was asked for. */
import { find } from "./build.ts";
import { findCuda, libraryFolders } from "./build_cuda.ts";
import { SYMBOLS, VERSION } from "./symbols.ts";

export type Native = Deno.DynamicLibrary<typeof SYMBOLS>["symbols"];

let opened: Native | undefined;
/** GPUs that devices are opened on in turn; `null` is the CPU. */
let gpus: readonly number[] | null = fromEnvironment();
/** Whether the program chose GPUs, rather than its environment. */
let chosen = false;
let next = 0;

/** `BATON_GPUS=0,0,1`: the CUDA backend with devices on these GPUs in turn. */
function fromEnvironment(): readonly number[] | null {
  const list = Deno.env.get("BATON_GPUS");
  return list ? list.split(",").map(Number) : null;
}

/**
 * Chooses the CUDA backend for this process.
 * @param on GPUs that devices are opened on in turn: [0, 0, 0, 0] are four ranks on one GPU.
 * @throws Error when another library is open already.
 */
export function useCuda(on: readonly number[]): void {
  if (opened && gpus === null && !Deno.env.get("BATON_LIBRARY")) {
    throw new Error(
      "Cannot use CUDA: the CPU library is open already, choose before the first device is opened",
    );
  }
  gpus = on, chosen = true;
}

/** @throws Error when the program has chosen GPUs: a process has one backend. */
export function useCpu(): void {
  if (opened && chosen) {
    throw new Error(
      "Cannot use the CPU: the CUDA library is open already, use another process for devices cpu:N",
    );
  }
}

/** The GPU of the next device. */
export const nextGpu = (): number => gpus?.length ? gpus[next++ % gpus.length]! : 0;

/**
 * The native functions. The library stays open until the process ends: closing it while a call is in flight would crash.
 * `BATON_LIBRARY` names a library to open instead of the one that belongs to the sources.
 * @throws Error when it cannot be built or opened, or has another version than this TypeScript.
 */
export function native(): Native {
  if (opened) return opened;
  if (gpus) prepareEnvironment();
  const path = Deno.env.get("BATON_LIBRARY") || (gpus ? cudaLibrary() : find() ?? buildInChild("./build.ts"));
  let symbols: Native;
  try {
    symbols = Deno.dlopen(path, SYMBOLS).symbols;
  } catch (cause) {
    throw new Error(`Cannot open the native library: ${cause instanceof Error ? cause.message : cause}`, {
      cause,
    });
  }
  const version = symbols.baton_version();
  if (version !== VERSION) {
    throw new Error(
      `Cannot use ${path}: it has version ${version} and ${VERSION} is needed, delete it to build it again`,
    );
  }
  return opened = symbols;
}

/**
 * What CUDA and NCCL read once, when they are first used. Several ranks on a GPU have to be allowed, and must not wait for code that is
 * loaded on first use, which waits for all that runs.
 */
function prepareEnvironment(): void {
  if (Deno.env.get("BATON_CUDA_COLLECTIVES") !== "nccl") return;
  const wanted = {
    NCCL_MULTI_RANK_GPU_ENABLE: "1",
    CUDA_MODULE_LOADING: "EAGER",
    CUDA_DEVICE_MAX_CONNECTIONS: "32",
  };
  for (const [name, value] of Object.entries(wanted)) {
    if (Deno.env.get(name) === undefined) Deno.env.set(name, value);
  }
}

/** The CUDA library opens cuBLASLt, NCCL and others itself, and looks in pip wheels first. */
function cudaLibrary(): string {
  if (!Deno.env.get("BATON_CUDA_LIBRARIES")) Deno.env.set("BATON_CUDA_LIBRARIES", libraryFolders().join(":"));
  return findCuda() ?? buildInChild("./build_cuda.ts");
}

/** Compilers run side by side, which takes promises; opening a device takes none. So another process builds. */
function buildInChild(builder: string): string {
  console.error("Building the native library (once, about half a minute)");
  const script = new URL(builder, import.meta.url).href;
  const args = ["run", "-A", "--quiet", script, "--silent"];
  const child = new Deno.Command(Deno.execPath(), { args, stdout: "piped", stderr: "piped" }).outputSync();
  const [output, message] = [child.stdout, child.stderr].map((bytes) =>
    new TextDecoder().decode(bytes).trim()
  );
  if (!child.success) throw new Error(message || "Cannot build the native library: the build ended early");
  return output!;
}
