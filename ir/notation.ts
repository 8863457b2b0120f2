/** How people write where something runs: clusters "cpu:2x4", strategies "dp2tp2pp2", devices "0-7". */
import type { Cluster, DeviceMesh, ParallelStrategy } from "./plan.ts";

/** Nodes and the devices of each. */
export interface Devices {
  readonly nodes: number;
  readonly perNode: number;
}

/** Devices `from` to `to`, both among them, numbered over the whole cluster. */
export interface DeviceRange {
  readonly from: number;
  readonly to: number;
}

/** Virtual devices of one process at most: each is a thread of its own. */
const MOST_DEVICES = 16;

/** "cpu:8": one node with 8 virtual devices; "cpu:2x4": 2 nodes with 4 each. A string is what is wrong with the text. */
export function parseDevices(text: string): Devices | string {
  const match = /^cpu:(?:([1-9]\d*)x)?([1-9]\d*)$/.exec(text);
  const nodes = Number(match?.[1] ?? 1), perNode = Number(match?.[2]);
  if (match && nodes * perNode <= MOST_DEVICES) return { nodes, perNode };
  return `is "${text}", it must be cpu:8 for 8 devices or cpu:2x4 for 2 nodes of 4, with 1 to ${MOST_DEVICES} in all`;
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
