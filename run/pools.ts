/** Which memory the rows of the byte table share: the machine's on the CPU; with GPUs each has its own, and so has the host. */
import type { Devices } from "../ir/notation.ts";
import type { MemoryRow } from "../planner/memory.ts";

/** Memory that some rows share. */
export interface Pool {
  /** "this machine", "GPU 0", "the host". */
  readonly name: string;
  readonly bytes: number;
  readonly holds: (row: Pick<MemoryRow, "where" | "device">) => boolean;
}

/** What of a machine says where memory is: see `Machine` of prepare.ts. */
export interface Memories {
  readonly devices: Devices;
  readonly memoryBytes: number;
  readonly gpuBytes?: ReadonlyMap<number, number>;
}

export function poolsOf({ devices: { gpus }, memoryBytes, gpuBytes }: Memories): Pool[] {
  if (!gpus || !gpuBytes) return [{ name: "this machine", bytes: memoryBytes, holds: () => true }];
  return [
    ...[...gpuBytes].map(([gpu, bytes]): Pool => ({
      name: `GPU ${gpu}`,
      bytes,
      holds: ({ where, device }) => where === "device" && device !== undefined && gpus[device] === gpu,
    })),
    { name: "the host", bytes: memoryBytes, holds: ({ where }) => where === "host" },
  ];
}

/** What one device can have when all of them have the same. */
export function deviceBytes({ devices: { nodes, perNode, gpus }, memoryBytes, gpuBytes }: Memories): number {
  if (!gpus || !gpuBytes) return memoryBytes / (nodes * perNode);
  return Math.min(...[...gpuBytes].map(([gpu, bytes]) => bytes / gpus.filter((g) => g === gpu).length));
}
