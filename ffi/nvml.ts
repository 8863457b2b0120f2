/**
 * What joins GPUs, from NVIDIA's management library, which comes with the driver
 * (https://docs.nvidia.com/deploy/nvml-api). Nothing of it is needed to compute.
 */
import { libraryFolders } from "./build_cuda.ts";
import { text } from "./errors.ts";

const FILE = "libnvidia-ml.so.1";
// Devices are opaque pointers, which are numbers to us.
const DEVICE = "u64";
const SYMBOLS = {
  nvmlInit_v2: { parameters: [], result: "i32" },
  nvmlShutdown: { parameters: [], result: "i32" },
  nvmlSystemGetDriverVersion: { parameters: ["buffer", "u32"], result: "i32" },
  nvmlDeviceGetHandleByPciBusId_v2: { parameters: ["buffer", "buffer"], result: "i32" },
  nvmlDeviceGetP2PStatus: { parameters: [DEVICE, DEVICE, "u32", "buffer"], result: "i32" },
  nvmlDeviceGetTopologyCommonAncestor: { parameters: [DEVICE, DEVICE, "buffer"], result: "i32" },
  nvmlDeviceGetNvLinkState: { parameters: [DEVICE, "u32", "buffer"], result: "i32" },
  nvmlDeviceGetMaxPcieLinkGeneration: { parameters: [DEVICE, "buffer"], result: "i32" },
  nvmlDeviceGetMaxPcieLinkWidth: { parameters: [DEVICE, "buffer"], result: "i32" },
} as const satisfies Deno.ForeignLibraryInterface;

/** Of peer-to-peer capabilities, that over NVLink. */
const OVER_NVLINK = 2;
/** Links that a GPU has at most. */
const MOST_LINKS = 18;
/** What two GPUs have in common on PCIe, by NVML's level. */
const LEVELS: Readonly<Record<number, string>> = {
  0: "one board",
  10: "one PCIe switch",
  20: "PCIe switches",
  30: "a PCIe host bridge",
  40: "PCIe within a NUMA node",
  50: "PCIe between NUMA nodes",
};

/** How two GPUs are joined. */
export interface GpuLink {
  readonly pair: readonly [number, number];
  /** "NVLink", or what of PCIe is between them. */
  readonly by: string;
}
/** What NVML says of GPUs. */
export interface GpuLinks {
  /** Of the driver, "580.159.04". */
  readonly driver: string;
  /** By GPU: links of NVLink that are up, and "PCIe 5.0 ×16". */
  readonly gpus: readonly { readonly nvlinks: number; readonly pcie: string }[];
  readonly links: readonly GpuLink[];
}

/** @param buses of GPUs, as `Gpu.bus` has them. A string is why there is nothing to say */
export function gpuLinks(buses: readonly string[]): GpuLinks | string {
  const named = Deno.env.get("BATON_CUDA_LIBRARIES")?.split(":").filter((f) => f) ?? libraryFolders();
  const library = opened([...named.map((folder) => `${folder}/${FILE}`), FILE]);
  if (!library) {
    return `no ${FILE} in ${[...named, "the system's folders"].join(", ")}; it comes with NVIDIA's driver`;
  }
  const { symbols: nvml } = library;
  try {
    if (nvml.nvmlInit_v2() !== 0) return `${FILE} cannot be started, is the driver loaded?`;
    const name = new Uint8Array(96), word = new Uint32Array(1), handle = new BigUint64Array(1);
    nvml.nvmlSystemGetDriverVersion(name, name.length);
    const devices = buses.map((bus) =>
      nvml.nvmlDeviceGetHandleByPciBusId_v2(new TextEncoder().encode(`${bus}\0`), handle) === 0
        ? handle[0]!
        : null
    );
    /** What a function wrote, where it did. */
    const got = (status: number): number | null => status === 0 ? word[0]! : null;
    const gpus = devices.map((device) => {
      if (device === null) return { nvlinks: 0, pcie: "unknown" };
      let nvlinks = 0;
      for (let i = 0; i < MOST_LINKS; i++) {
        nvlinks += got(nvml.nvmlDeviceGetNvLinkState(device, i, word)) ?? 0;
      }
      const generation = got(nvml.nvmlDeviceGetMaxPcieLinkGeneration(device, word)),
        width = got(nvml.nvmlDeviceGetMaxPcieLinkWidth(device, word));
      return { nvlinks, pcie: generation && width ? `PCIe ${generation}.0 ×${width}` : "unknown" };
    });
    const links = devices.flatMap((a, i) =>
      devices.slice(i + 1).map((b, k): GpuLink => {
        const pair = [i, i + 1 + k] as const;
        if (a === null || b === null) return { pair, by: "unknown" };
        if (got(nvml.nvmlDeviceGetP2PStatus(a, b, OVER_NVLINK, word)) === 0) return { pair, by: "NVLink" };
        return {
          pair,
          by: LEVELS[got(nvml.nvmlDeviceGetTopologyCommonAncestor(a, b, word)) ?? -1] ?? "unknown",
        };
      })
    );
    return { driver: text(name), gpus, links };
  } finally {
    nvml.nvmlShutdown();
    library.close();
  }
}

function opened(paths: readonly string[]): Deno.DynamicLibrary<typeof SYMBOLS> | null {
  for (const path of paths) {
    try {
      return Deno.dlopen(path, SYMBOLS);
    } catch {
      // The next one.
    }
  }
  return null;
}
