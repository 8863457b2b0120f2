/**
 * Builds the CUDA library: `deno task build:cuda [--toolkit PATH] [--emulation]` prints its path. The toolkit is the one that is
 * named, the nvcc on the PATH, a toolkit in the usual place, or pip wheels (nvidia-cuda-nvcc, nvidia-cuda-runtime, …) that the
 * python on the PATH has. With `--emulation` the same sources are compiled for the host, for tests without a GPU.
 */
import { dirname, join } from "node:path";
import { cxx, FLAGS, headerDigest, linkFlags, missingCxx, unitOf } from "./build.ts";
import { assemble, digest, findLibrary, type Recipe, report, sourceRoot, sourcesOf } from "./objects.ts";

/** A CUDA compiler and what belongs to it. */
export interface Toolkit {
  readonly nvcc: string;
  /** "13.0" */
  readonly version: string;
  readonly includes: readonly string[];
  /** Folder of libcudart_static.a. */
  readonly runtime: string;
}

const OLDEST = "12.4";
/**
 * The arithmetic of the CPU: no contraction of a·b + c, subnormals are zero, division and square root are rounded. Kernels that use
 * tensor cores say what they contract themselves.
 */
export const KERNEL_FLAGS: readonly string[] = [
  "-std=c++17",
  "-O3",
  "-ftz=true",
  "-prec-div=true",
  "-prec-sqrt=true",
  "-fmad=false",
  "-w",
];

const isFile = (path: string): boolean => {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
};
const isFolder = (path: string): boolean => {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
};
const entries = (folder: string): string[] =>
  isFolder(folder) ? [...Deno.readDirSync(folder)].map((e) => join(folder, e.name)).sort() : [];

/** What a program prints, or `null` when there is no such program or it fails. */
function printed(program: string, ...args: string[]): string | null {
  try {
    const { success, stdout } = new Deno.Command(program, { args, stderr: "null" }).outputSync();
    return success ? new TextDecoder().decode(stdout).trim() : null;
  } catch {
    return null;
  }
}

/** Folders of NVIDIA's pip wheels: `nvidia/cu13`, `nvidia/nccl`, `nvidia/cuda_nvcc`, … */
export function wheels(): string[] {
  const python = Deno.env.get("BATON_PYTHON") || "python3";
  const paths = printed(python, "-c", "import nvidia; print('\\n'.join(nvidia.__path__))");
  return paths?.split("\n").flatMap(entries).filter(isFolder) ?? [];
}

/** Folders of the wheels that hold libraries: where the CUDA library looks for cuBLASLt, NCCL and NVRTC. */
export const libraryFolders = (): string[] => wheels().map((root) => join(root, "lib")).filter(isFolder);

/** Roots that may hold bin/nvcc, the best first. */
function roots(named: string | undefined): string[] {
  const onPath = (Deno.env.get("PATH") ?? "").split(":").filter((folder) => isFile(join(folder, "nvcc")));
  return named ? [named] : [
    ...onPath.map((folder) => dirname(Deno.realPathSync(join(folder, "nvcc")))).map(dirname),
    ...entries("/usr/local").filter((path) => /\/cuda(-[\d.]+)?$/.test(path)),
    ...wheels(),
  ];
}

/**
 * Finds a toolkit, or says in one line why there is none.
 * @param named A folder with bin/nvcc; BATON_CUDA_TOOLKIT by default.
 */
export function findToolkit(named = Deno.env.get("BATON_CUDA_TOOLKIT") || undefined): Toolkit | string {
  const root = roots(named).find((root) => isFile(join(root, "bin/nvcc")));
  if (!root) {
    return `no nvcc in ${
      named ?? "PATH, /usr/local/cuda* or the pip wheels of python3"
    }, install the CUDA toolkit or \`pip install nvidia-cuda-nvcc nvidia-cuda-runtime\` (or set BATON_CUDA_TOOLKIT)`;
  }
  const nvcc = join(root, "bin/nvcc");
  const version = /release (\d+\.\d+)/.exec(printed(nvcc, "--version") ?? "")?.[1] ?? "0";
  if (version.localeCompare(OLDEST, "en", { numeric: true }) < 0) {
    return `${nvcc} is of version ${version}, ${OLDEST} or newer is needed`;
  }
  // Wheels of one toolkit lie side by side, those of CUDA 12 in a folder each.
  const beside = [root, ...wheels(), ...entries(dirname(root)).filter(isFolder)];
  const runtime = beside.flatMap((r) =>
    ["lib64", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib", "lib"].map((l) => join(r, l))
  )
    .find((folder) => isFile(join(folder, "libcudart_static.a")));
  if (!runtime) return `no libcudart_static.a beside ${nvcc}, \`pip install nvidia-cuda-runtime\``;
  const includes = [...new Set(beside.map((r) => join(r, "include")))].filter((folder) =>
    ["cuda_runtime.h", "cublasLt.h", "nccl.h", "nvrtc.h", "crt/host_defines.h"].some((h) =>
      isFile(join(folder, h))
    )
  );
  return { nvcc, version, includes, runtime };
}

/** Architectures by compute capability. */
const ARCHITECTURES: Readonly<Record<string, string>> = { "8.0": "80", "9.0": "90a", "10.0": "100" };
let own: string | undefined;

/** Those of the GPUs of this machine, of which nvcc then compiles a third as much; all where there is none, or another one. */
function usualArchitectures(): string {
  if (own !== undefined) return own;
  const found = printed("nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader")?.split("\n") ?? [];
  const names = [...new Set(found)].map((capability) => ARCHITECTURES[capability.trim()]);
  return own =
    (names.length > 0 && names.every((name) => name !== undefined) ? names : Object.values(ARCHITECTURES))
      .join();
}

/** `-gencode` flags: machine code for A100, H100 and H200, B200 where nvcc knows it, and PTX for what comes later. */
function architectures(nvcc: string): string[] {
  const known = printed(nvcc, "--list-gpu-arch") ?? "";
  const wanted = (Deno.env.get("BATON_CUDA_ARCHS") ?? usualArchitectures()).split(",")
    .filter((arch) => known.includes(`compute_${arch.replace(/[af]$/, "")}`));
  return [
    ...wanted.flatMap((arch) => ["-gencode", `arch=compute_${arch},code=sm_${arch}`]),
    ...(wanted.includes("80") ? ["-gencode", "arch=compute_80,code=compute_80"] : []),
  ];
}

/** One source holds the text of another one, which the assembler finds below the source root. */
const asText = (file: string): string[] => file.endsWith("/math_text.cpp") ? [`-Wa,-I${sourceRoot()}`] : [];

function cudaRecipe(toolkit: Toolkit): Recipe {
  const files = sourcesOf(["common", "gpu", "gpu/kernels"]), headers = headerDigest(files);
  const includes = toolkit.includes.map((folder) => `-I${folder}`);
  const device = [
    ...KERNEL_FLAGS,
    ...architectures(toolkit.nvcc),
    "-ccbin",
    cxx(),
    "-Xcompiler",
    FLAGS.filter((flag) => !flag.startsWith("-std") && flag !== "-O3").join(","),
    ...includes,
  ];
  const units = files.filter((f) => /\.(cu|cpp)$/.test(f)).map((file) =>
    file.endsWith(".cu")
      ? unitOf(toolkit.nvcc, file, device, "cuda", headers)
      : unitOf(cxx(), file, [...FLAGS, ...asText(file)], "host", headers)
  );
  const link = [...linkFlags(), `-L${toolkit.runtime}`, "-lcudart_static", "-ldl", "-lrt"];
  return {
    what: "CUDA library",
    units,
    linker: cxx(),
    link,
    library: `libbaton_cuda-${digest(...units.map((u) => u.object), ...link)}.so`,
    missing: (compiler) => compiler === toolkit.nvcc ? `${compiler} is not there` : missingCxx(),
  };
}

function emulationRecipe(): Recipe {
  const files = sourcesOf(["common", "gpu", "gpu/kernels", "emulation"]), headers = headerDigest(files);
  const flags = [
    ...FLAGS.map((flag) => flag === "-O3" ? "-O2" : flag),
    `-I${join(sourceRoot(), "emulation")}`,
  ];
  const units = files.filter((f) => /\.(cu|cpp)$/.test(f)).map((file) =>
    unitOf(
      cxx(),
      file,
      [...flags, ...asText(file), ...(file.endsWith(".cu") ? ["-x", "c++"] : [])],
      "emulated",
      headers,
    )
  );
  return {
    what: "emulated CUDA library",
    units,
    linker: cxx(),
    link: linkFlags(),
    library: `libbaton_emulated-${digest(...units.map((u) => u.object))}.so`,
    missing: missingCxx,
  };
}

function toolkitOrThrow(named?: string): Toolkit {
  const toolkit = findToolkit(named);
  if (typeof toolkit === "string") throw new Error(`Cannot build the CUDA library: ${toolkit}`);
  return toolkit;
}

/** Path of the CUDA library made from the present sources, or `null` when it has yet to be built or there is no toolkit. */
export function findCuda(): string | null {
  const toolkit = findToolkit();
  return typeof toolkit === "string" ? null : findLibrary(cudaRecipe(toolkit).library);
}

/**
 * Builds the CUDA library.
 * @param named A folder with bin/nvcc.
 * @throws Error when there is no toolkit or a compiler fails.
 */
export async function buildCuda(announce: (line: string) => void, named?: string): Promise<string> {
  return await assemble(cudaRecipe(toolkitOrThrow(named)), announce);
}

/** Builds the CUDA library's sources for the host. */
export const buildEmulation = (announce: (line: string) => void): Promise<string> =>
  assemble(emulationRecipe(), announce);

if (import.meta.main) {
  const at = Deno.args.indexOf("--toolkit");
  await report((announce) =>
    Deno.args.includes("--emulation")
      ? buildEmulation(announce)
      : buildCuda(announce, at >= 0 ? Deno.args[at + 1] : undefined)
  );
}
