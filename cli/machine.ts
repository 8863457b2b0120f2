/** Finds the facts about this machine; never fails: what cannot be found is not there. */
import { find as findLibrary } from "../ffi/build.ts";
import { findToolkit } from "../ffi/build_cuda.ts";
import { describeCuda } from "../ffi/cuda.ts";
import { gpuLinks } from "../ffi/nvml.ts";
import { memory } from "../run/available.ts";
import type { Cuda, Machine } from "./diagnosis.ts";

/** What a program prints, or `null` when there is no such program or it fails. */
async function printed(program: string, ...args: string[]): Promise<string | null> {
  try {
    const { success, stdout } = await new Deno.Command(program, { args, stderr: "null" }).output();
    return success ? new TextDecoder().decode(stdout).trim() : null;
  } catch {
    return null;
  }
}

const firstLine = (text: string | null): string | null => text?.split("\n")[0] ?? null;

async function cpuFlags(): Promise<string[]> {
  const text = await Deno.readTextFile("/proc/cpuinfo").catch(() => "");
  return /^flags\s*:\s*(.*)$/m.exec(text)?.[1]?.split(/\s+/) ?? [];
}

/** This machine. */
export async function inspect(): Promise<Machine> {
  const { totalBytes, availableBytes } = memory();
  const compilerCommand = Deno.env.get("CXX") || "g++";
  const gpus = await printed(
    "nvidia-smi",
    "--query-gpu=name,driver_version,memory.total",
    "--format=csv,noheader",
  );
  const toolkit = findToolkit();
  return {
    os: Deno.build.os,
    arch: Deno.build.arch,
    deno: Deno.version.deno,
    cores: navigator.hardwareConcurrency,
    memoryBytes: totalBytes,
    availableBytes,
    cpuFlags: await cpuFlags(),
    compiler: firstLine(await printed(compilerCommand, "--version")),
    compilerCommand,
    library: findLibrary(),
    gpus: gpus ? gpus.split("\n") : [],
    nvcc: typeof toolkit === "string"
      ? { missing: toolkit }
      : { found: `${toolkit.nvcc}, ${toolkit.version}` },
    cuda: cudaFacts(),
  };
}

function cudaFacts(): Cuda | null {
  const found = describeCuda();
  if (found === null) return null;
  const { missing = "", driver = "", gpus = [], libraries = {} } = found;
  return {
    missing,
    driver,
    gpus,
    libraries,
    links: gpus.length ? gpuLinks(gpus.map((g) => g.bus)) : "no GPU",
  };
}
