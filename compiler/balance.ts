/** Who sends how much: work that several devices could do is divided so that the busiest one has least. */
import { PANEL } from "../ir/op.ts";
import type { Demand } from "./demand.ts";

/** A demand that any of `devices` can see to; `weight` times its bytes leave the device that does. */
export interface Task {
  readonly demand: Demand;
  readonly devices: readonly number[];
  readonly weight: number;
}

/** What a device does of a task: bytes from … to, counted through the demand's layers and parts. */
export interface Share {
  readonly device: number;
  readonly from: number;
  readonly to: number;
}

/** Tasks that the same devices can do, laid one behind the other: every device takes one stretch. */
interface Axis {
  readonly devices: readonly number[];
  readonly weight: number;
  readonly tasks: readonly { readonly index: number; readonly demand: Demand; readonly start: number }[];
  /** Where the tasks of a receiver begin, and the end of the last one's. */
  readonly seams: readonly number[];
  readonly bytes: number;
}

/** Rounds of levelling; two or three do unless many overlapping groups share devices. */
const ROUNDS = 12;
/** By how much of the busiest device's work a division may be uneven where that saves cuts. */
const SLACK = 1 / 100;

/** The shares of every task, in the tasks' order. */
export function balance(tasks: readonly Task[]): Share[][] {
  const shares: Share[][] = tasks.map(() => []), load: Load = new Map();
  const axes = axesOf(tasks).sort((a, b) => a.bytes - b.bytes);
  for (const axis of axes.filter((a) => a.devices.length === 1)) {
    add(load, axis, [axis.bytes]);
    divide(axis, [0, axis.bytes], shares);
  }
  const free = axes.filter((a) => a.devices.length > 1);
  const levels = levelled(free, load), busiest = Math.max(...load.values());
  // What little axes are off by for fewer cuts, big ones make up for.
  free.forEach((axis, i) => {
    add(load, axis, levels[i]!.map((n) => -n));
    const bounds = boundsOf(axis, lowest(load, axis), SLACK * busiest / axis.weight);
    add(load, axis, axis.devices.map((_, d) => bounds[d + 1]! - bounds[d]!));
    divide(axis, bounds, shares);
  });
  return shares;
}

/** Bytes that leave each device. */
type Load = Map<number, number>;

function add(load: Load, { devices, weight }: Axis, bytes: readonly number[]): void {
  devices.forEach((device, i) => load.set(device, (load.get(device) ?? 0) + weight * bytes[i]!));
}

/** An axis divided so that the busiest of its devices is as little busy as can be. */
const lowest = (load: Load, { devices, weight, bytes }: Axis): number[] =>
  fill(devices.map((device) => load.get(device) ?? 0), weight * bytes).map((n) => n / weight);

/** Divides one axis after the other, again and again: that comes to the best division of all of them together. */
function levelled(axes: readonly Axis[], load: Load): number[][] {
  const levels = axes.map((axis) => axis.devices.map(() => 0));
  for (let round = 0, moved = true; round < ROUNDS && moved; round++) {
    moved = false;
    axes.forEach((axis, i) => {
      const before = levels[i]!;
      add(load, axis, before.map((n) => -n));
      const next = levels[i] = lowest(load, axis);
      add(load, axis, next);
      moved ||= next.some((n, d) => Math.abs(n - before[d]!) > SLACK * axis.bytes / axis.devices.length);
    });
  }
  return levels;
}

function divide({ devices, tasks }: Axis, bounds: readonly number[], shares: readonly Share[][]): void {
  for (const { index, demand, start } of tasks) {
    devices.forEach((device, d) => {
      const from = Math.max(0, bounds[d]! - start), to = Math.min(demand.bytes, bounds[d + 1]! - start);
      if (from < to) shares[index]!.push({ device, from, to });
    });
  }
}

function axesOf(tasks: readonly Task[]): Axis[] {
  const indexes = tasks.map((_, i) => i), first = (i: number) => tasks[i]!.demand.receivers[0]!;
  const key = (i: number) => `${tasks[i]!.devices} ${tasks[i]!.weight}`;
  return [...Map.groupBy(indexes, key).values()].map((members) => {
    const seams: number[] = [], placed: Axis["tasks"][number][] = [];
    let start = 0, receiver = -1;
    for (const index of members.sort((a, b) => first(a) - first(b) || a - b)) {
      if (first(index) !== receiver) seams.push(start);
      receiver = first(index);
      const { demand } = tasks[index]!;
      placed.push({ index, demand, start });
      start += demand.bytes;
    }
    seams.push(start);
    const { devices, weight } = tasks[members[0]!]!;
    return { devices, weight, tasks: placed, seams, bytes: start };
  });
}

/** What each of `loads` gets of `amount` when it is poured on the lowest of them. */
function fill(loads: readonly number[], amount: number): number[] {
  const rising = [...loads].sort((a, b) => a - b);
  let sum = amount, level = 0;
  for (let n = 1; n <= rising.length; n++) {
    sum += rising[n - 1]!;
    level = sum / n;
    if (n < rising.length && level <= rising[n]!) break;
  }
  return loads.map((load) => Math.max(0, level - load));
}

/** Ends of the devices' stretches, at places where a cut costs little. */
function boundsOf({ tasks, seams, bytes }: Axis, amounts: readonly number[], slack: number): number[] {
  const bounds = [0];
  let end = 0, t = 0;
  for (const amount of amounts.slice(0, -1)) {
    end += amount;
    while (t < tasks.length - 1 && tasks[t + 1]!.start <= end) t++;
    const { demand, start } = tasks[t]!;
    const seam = seams.reduce((a, b) => Math.abs(b - end) < Math.abs(a - end) ? b : a);
    const near = Math.abs(seam - end) <= slack;
    bounds.push(near ? seam : start + cutOf(demand, Math.min(demand.bytes, end - start), slack));
  }
  return [...bounds, bytes];
}

/** The place to cut a demand near `at`: at its ends, between layers, between parts or, at last, between panels. */
function cutOf({ bytes, layerBytes, parts }: Demand, at: number, slack: number): number {
  const nearest = (unit: number) => Math.round(at / unit) * unit;
  for (const cut of [nearest(bytes), nearest(layerBytes)]) if (Math.abs(cut - at) <= slack) return cut;
  let from = Math.floor(at / layerBytes) * layerBytes, i = 0;
  while (i < parts.length - 1 && from + parts[i]!.bytes <= at) from += parts[i++]!.bytes;
  const part = parts[i]!, to = from + part.bytes, end = at - from < to - at ? from : to;
  if (Math.abs(end - at) <= slack) return end;
  const grain = PANEL * part.rowBytes;
  return Math.min(to, from + Math.round((at - from) / grain) * grain);
}
