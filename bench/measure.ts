/** Timing on a machine that others use too: medians over quiet repetitions, and how busy the machine was. */
import process from "node:process";
import type { Device } from "../ffi/device.ts";
import { native } from "../ffi/library.ts";

/** A repetition is clean while all other processes together used less than this many cores. */
const CLEAN = 0.2;
const TICKS_PER_SECOND = 100, FMA_PEAK = 3;

export interface Limits {
  readonly repetitions: number;
  /** Repetitions that are not timed. */
  readonly warm: number;
  /** Seconds for all of them; at least three are made. */
  readonly budget: number;
}

/** What `timed` found; the names are those of the peers' benchmark. */
export interface Timing {
  /** Over clean repetitions when there are at least three, else over all. */
  readonly median_s: number;
  readonly best_s: number;
  readonly all_median_s: number;
  readonly mean_s: number;
  readonly n: number;
  readonly n_clean: number;
  /** Cores that other processes used meanwhile. */
  readonly others_cores: number;
  readonly cpu_util: number;
  readonly cpu_median_s: number;
}

export async function timed(
  repeat: () => Promise<unknown>,
  { repetitions, warm, budget }: Limits,
): Promise<Timing> {
  for (let i = 0; i < warm; i++) await repeat();
  const all: { readonly wall: number; readonly own: number; readonly others: number }[] = [],
    start = performance.now();
  const clean = () => all.filter((r) => r.others < CLEAN);
  const enough = () => all.length >= repetitions && clean().length >= Math.min(repetitions, 3);
  while (!enough() && (all.length < 3 || performance.now() - start < 1000 * budget)) {
    const machine = machineSeconds(), own = ownSeconds(), began = performance.now();
    await repeat();
    const wall = (performance.now() - began) / 1000, used = ownSeconds() - own;
    all.push({ wall, own: used, others: Math.max(0, machineSeconds() - machine - used) / wall });
  }
  const walls = all.map((r) => r.wall), quiet = clean(), total = sum(walls);
  return {
    median_s: median(quiet.length >= 3 ? quiet.map((r) => r.wall) : walls),
    best_s: Math.min(...walls),
    all_median_s: median(walls),
    mean_s: total / all.length,
    n: all.length,
    n_clean: quiet.length,
    others_cores: sum(all.map((r) => r.others * r.wall)) / total,
    cpu_util: sum(all.map((r) => r.own)) / total,
    cpu_median_s: median(all.map((r) => r.own)),
  };
}

/** GFLOP/s of fused multiply-adds in registers on the device's threads: no program can be faster. */
export function peakGflops(device: Device): number {
  const [m, n, k] = [2 ** 10, 2 ** 9, 2 ** 9];
  return 2 * m * n * k / native().baton_gemm_bench(device.id, FMA_PEAK, m, n, k, 15) / 1e9;
}

/** The most memory that this process had, in MB; 0 where the system does not tell. */
export const peakRssMb = (): number => field("/proc/self/status", /VmHWM:\s*(\d+) kB/) / 1024;

/** CPU seconds of this process. */
function ownSeconds(): number {
  const { user, system } = process.cpuUsage();
  return (user + system) / 1e6;
}

/** CPU seconds of the whole machine, time stolen from it included. */
function machineSeconds(): number {
  const ticks = read("/proc/stat").split("\n")[0]!.split(/\s+/).slice(1, 9).map(Number);
  return sum([0, 1, 2, 5, 6, 7].map((i) => ticks[i] ?? 0)) / TICKS_PER_SECOND;
}

const field = (path: string, pattern: RegExp): number => Number(read(path).match(pattern)?.[1] ?? 0);

function read(path: string): string {
  try {
    return Deno.readTextFileSync(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}

const sum = (xs: readonly number[]): number => xs.reduce((a, b) => a + b, 0);

export function median(xs: readonly number[]): number {
  const sorted = [...xs].sort((a, b) => a - b), half = sorted.length >> 1;
  return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}
