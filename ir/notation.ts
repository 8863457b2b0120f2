/** How people write where something runs: clusters "cpu:2x4" and "cuda:0x4", strategies "dp2tp2pp2", devices "0-7". */
import type { Cluster, DeviceMesh, ParallelStrategy } from "./plan.ts";

/** Nodes and the devices of each. */
export interface Devices {
  readonly nodes: number;
  readonly perNode: number;
  /** The GPU of every device, in their order; several may be on one. Absent where devices are virtual ones of the CPU. */
  readonly gpus?: readonly number[];
}

/** Devices `from` to `to`, both among them, numbered over the whole cluster. */
export interface DeviceRange {
  readonly from: number;
  readonly to: number;
}

/** Virtual devices of one process at most: each is a thread of its own. */
const MOST_DEVICES = 16;

/**
 * "cpu:8": one node with 8 virtual devices; "cpu:2x4": 2 nodes with 4 each. "cuda:0": the first GPU; "cuda:0,2-3": one device on each
 * of three; "cuda:0x4": four on the first. A string is what is wrong with the text.
 */
export function parseDevices(text: string): Devices | string {
  const match = /^cpu:(?:([1-9]\d*)x)?([1-9]\d*)$/.exec(text);
  const nodes = Number(match?.[1] ?? 1), perNode = Number(match?.[2]);
  if (match && nodes * perNode <= MOST_DEVICES) return { nodes, perNode };
  const gpus = parseGpus(text);
  if (gpus && gpus.length <= MOST_DEVICES) return { nodes: 1, perNode: gpus.length, gpus };
  return `is "${text}", it must be cpu:8 for 8 devices, cpu:2x4 for 2 nodes of 4, cuda:0,1 for GPUs 0 and 1 or cuda:0x4 for 4 ` +
    `devices on GPU 0, with 1 to ${MOST_DEVICES} in all`;
}

/** GPUs of a list of numbers and ranges, each of them as often as is said; `null` when it is none. */
function parseGpus(text: string): number[] | null {
  const item = /^(0|[1-9]\d{0,3})(?:-(0|[1-9]\d{0,3}))?(?:x([1-9]\d{0,3}))?$/;
  const parts = text.startsWith("cuda:") ? text.slice(5).split(",").map((part) => item.exec(part)) : [null];
  if (!parts.every((m) => m !== null)) return null;
  const all = parts.flatMap(([_, first, last, times]) => {
    const from = Number(first), count = Number(last ?? first) - from + 1;
    // What is too long is refused; it need not be made.
    return Array.from(
      { length: Math.min(Math.max(0, count) * Number(times ?? 1), MOST_DEVICES + 1) },
      (_, i) => from + Math.floor(i / Number(times ?? 1)),
    );
  });
  return all.length > 0 ? all : null;
}

/** GPUs as {@link parseDevices} reads them: "cuda:0x4", "cuda:0,1". */
export function printGpus(gpus: readonly number[]): string {
  const runs: { gpu: number; times: number }[] = [];
  for (const gpu of gpus) {
    const last = runs.at(-1);
    if (last?.gpu === gpu) last.times++;
    else runs.push({ gpu, times: 1 });
  }
  return `cuda:${runs.map(({ gpu, times }) => times === 1 ? gpu : `${gpu}x${times}`).join()}`;
}

/** "dp2tp2pp2" in any order; an axis that is not named is 1. A string is what is wrong with the text. */
export function parseStrategy(text: string): ParallelStrategy | string {
  const parts = [...text.matchAll(/(dp|tp|pp)([1-9]\d*)/g)].map((m) => [m[1]!, Number(m[2])] as const);
  const whole = parts.map(([axis, n]) => `${axis}${n}`).join("") === text && text !== "";
  if (!whole || new Set(parts.map(([axis]) => axis)).size < parts.length) {
    return `is "${text}", it must name each of dp, tp and pp once at most, as dp2tp2pp2 does`;
  }
  return { dp: 1, tp: 1, pp: 1, ...Object.fromEntries(parts) };
}

/** "0-7", or "3" for one device. A string is what is wrong with the text. */
export function parseRange(text: string): DeviceRange | string {
  const match = /^(\d+)(?:-(\d+))?$/.exec(text), from = Number(match?.[1]), to = Number(match?.[2] ?? from);
  return match && from <= to
    ? { from, to }
    : `is "${text}", it must be a device or a range of them, as 3 or 0-7`;
}

/** The mesh of a range: devices of one node, or whole nodes. Of any other range a mesh that no cluster has: the plan's check says so. */
export function meshOf({ from, to }: DeviceRange, cluster: Pick<Cluster, "devicesPerNode">): DeviceMesh {
  const each = cluster.devicesPerNode, size = to - from + 1;
  return from % each === 0 && size % each === 0
    ? { node: from / each, nodes: size / each, device: 0, devices: each }
    : { node: Math.floor(from / each), nodes: 1, device: from % each, devices: size };
}
