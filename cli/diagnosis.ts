/** What the facts about a machine mean for Baton. Pure: `machine.ts` finds the facts. */

import type { GpuLinks } from "../ffi/nvml.ts";

/** Facts; `null` is "there is none". */
export interface Machine {
  readonly os: string;
  readonly arch: string;
  readonly deno: string;
  readonly cores: number;
  readonly memoryBytes: number;
  readonly availableBytes: number;
  /** CPU flags, as in /proc/cpuinfo. */
  readonly cpuFlags: readonly string[];
  /** Name and version of the C++ compiler, and what was looked for. */
  readonly compiler: string | null;
  readonly compilerCommand: string;
  /** Path of the native library for these sources. */
  readonly library: string | null;
  /** One line per GPU: name, driver, memory. */
  readonly gpus: readonly string[];
  /** The CUDA compiler, or one line that says why there is none. */
  readonly nvcc: { readonly found: string } | { readonly missing: string };
  /** What the CUDA library found; `null` when it has not been built. */
  readonly cuda: Cuda | null;
}

/** What the CUDA library says of driver, GPUs and libraries. */
export interface Cuda {
  /** Why no GPU can be used, or nothing. */
  readonly missing: string;
  /** CUDA version of the driver. */
  readonly driver: string;
  readonly gpus: readonly {
    readonly name: string;
    /** Compute capability, "9.0". */
    readonly capability: string;
    readonly multiprocessors: number;
    readonly bytes: number;
    readonly freeBytes: number;
    /** Where it is on the PCI bus. */
    readonly bus: string;
    /** GPUs whose memory this one reads directly. */
    readonly peers: readonly number[];
  }[];
  /** Version and file, or one line that says where it was looked for, of cublasLt, nccl, nvrtc and cudnn. */
  readonly libraries: Readonly<Record<string, string>>;
  /** What joins the GPUs, or one line that says why it is not known. */
  readonly links: GpuLinks | string;
}

/** One thing that was looked for. */
export interface Check {
  readonly name: string;
  /** `optional`: missing, and only some things need it. */
  readonly state: "ok" | "missing" | "optional";
  readonly found: string;
  /** Absent when nothing is lacking. */
  readonly fix?: string;
}

const GIB = 2 ** 30;
/** The version that the project is tested with; older ones lack what it uses. */
const DENO = "2.9.6";

/** The fastest instruction set that the native library would choose. */
export function instructionSet(flags: readonly string[]): "avx512" | "avx2" | "generic" {
  const has = (...names: string[]): boolean => names.every((name) => flags.includes(name));
  if (has("avx512f", "avx512dq", "avx512bw", "avx512vl", "fma", "avx2")) return "avx512";
  return has("avx2", "fma", "f16c") ? "avx2" : "generic";
}

/** Every check, in the order of what depends on what. */
export function checks(machine: Machine): Check[] {
  const { os, arch, deno, compilerCommand, gpus } = machine;
  const isa = instructionSet(machine.cpuFlags);
  const memory = `${gib(machine.availableBytes)} of ${gib(machine.memoryBytes)} free`;
  const forGpu = "not needed to run on the CPU; for a GPU";
  return [
    os === "linux"
      ? ok("system", `${os} ${arch}`)
      : lack("system", "missing", `${os} ${arch}`, "use Linux, or a Linux container: nothing else is tested"),
    older(deno, DENO)
      ? lack(
        "Deno",
        "missing",
        deno,
        `run with \`npx -y deno@${DENO}\`, or \`deno upgrade --version ${DENO}\``,
      )
      : ok("Deno", deno),
    ok("cores", String(machine.cores)),
    machine.availableBytes < GIB
      ? lack("memory", "missing", memory, "end other programs: the examples need 1 GiB")
      : ok("memory", memory),
    isa === "generic"
      ? lack("instructions", "optional", isa, "use a CPU with AVX2 and FMA: same results, many times faster")
      : ok("instructions", isa),
    machine.compiler === null
      ? lack(
        "C++ compiler",
        machine.library === null ? "missing" : "optional",
        `no ${compilerCommand}`,
        "apt-get install g++ (or set CXX): it builds the native library",
      )
      : ok("C++ compiler", machine.compiler),
    machine.library === null
      ? lack(
        "native library",
        "optional",
        "not built",
        "deno task build, or run anything: its first use builds it",
      )
      : ok("native library", machine.library),
    gpus.length === 0
      ? lack("GPU", "optional", "none that nvidia-smi lists", `${forGpu} install NVIDIA's driver`)
      : ok("GPU", gpus.join("; ")),
    "missing" in machine.nvcc
      ? lack("CUDA compiler", "optional", "none that can be used", machine.nvcc.missing)
      : ok("CUDA compiler", machine.nvcc.found),
    ...cudaChecks(machine.cuda),
  ];
}

/** What the CUDA library found, GPU by GPU. */
function cudaChecks(cuda: Cuda | null): Check[] {
  if (cuda === null) {
    return [
      lack("CUDA library", "optional", "not built", "deno task build:cuda, where there is a CUDA compiler"),
    ];
  }
  const { links } = cuda, driver = typeof links === "string" ? "" : ` ${links.driver}`;
  const cards = cuda.gpus.map((g, i) =>
    ok(
      `GPU ${i}`,
      [
        g.name,
        `compute capability ${g.capability}`,
        `${g.multiprocessors} multiprocessors`,
        `${gib(g.freeBytes)} of ${gib(g.bytes)} free`,
        `bus ${g.bus}`,
        ...typeof links === "string" || !links.gpus[i]
          ? []
          : [links.gpus[i].pcie, ...links.gpus[i].nvlinks ? [`${links.gpus[i].nvlinks} NVLinks`] : []],
      ].join(", "),
    )
  );
  const libraries = Object.entries(cuda.libraries).map(([name, found]) =>
    /^\d/.test(found) ? ok(name, found) : lack(name, "optional", "not found", found)
  );
  return [
    cuda.missing === ""
      ? ok("CUDA library", `built, driver${driver} for CUDA ${cuda.driver}`)
      : lack("CUDA library", "optional", "built, and finds no GPU", cuda.missing),
    ...cards,
    ...cuda.gpus.length > 1
      ? [linkCheck(links), ok("peer access", peersText(cuda.gpus.map((g) => g.peers)))]
      : [],
    ...libraries,
  ];
}

/** How GPUs are joined, pairs that are joined alike together. */
function linkCheck(links: GpuLinks | string): Check {
  if (typeof links === "string") return lack("links", "optional", "not known, see peer access", links);
  const kinds = [...Map.groupBy(links.links, (l) => l.by)];
  return ok(
    "links",
    kinds.length === 1
      ? `${kinds[0]![0]} between all GPUs`
      : kinds.map(([by, all]) => `${by}: ${all.map(({ pair }) => pair.join("–")).join(" ")}`).join("; "),
  );
}

/** Which GPUs read whose memory. */
function peersText(peers: readonly (readonly number[])[]): string {
  if (peers.every((own) => own.length === peers.length - 1)) {
    return "every GPU reads the memory of every other one";
  }
  return peers.map((own, i) => `${i} reads ${own.length ? own.join(" ") : "no other"}`).join("; ");
}

const ok = (name: string, found: string): Check => ({ name, state: "ok", found });
const lack = (name: string, state: "missing" | "optional", found: string, fix: string): Check => ({
  name,
  state,
  found,
  fix,
});
const older = (version: string, than: string): boolean =>
  version.localeCompare(than, "en", { numeric: true }) < 0;
const gib = (bytes: number): string => `${(bytes / GIB).toFixed(1)} GiB`;
