/** The machine of a run and how its calls share it: options win over the configuration's file. */
import { type Precision, PRECISIONS, type Storage, storedIn } from "../compiler/models/storage.ts";
import { oneOf, positive } from "../dsl/options.ts";
import type { Config } from "../engine/config.ts";
import { openGpus, usableBytes } from "../ffi/gpus.ts";
import { type Devices, parseDevices, parseStrategy } from "../ir/notation.ts";
import { type ParallelStrategy, RECOMPUTE, type Recompute } from "../ir/plan.ts";
import { memory } from "./available.ts";
import { defaultThreads, type RunOptions } from "./options.ts";
import type { PlanFile } from "../planner/plan_file.ts";
import { type Assumptions, parseHost } from "./assumptions.ts";
import { type ClusterFile, readCluster, readProfile } from "./cluster.ts";
import { readPlanFile } from "./plan_file.ts";
import { capacityOf, profileOfMachine } from "./profiles.ts";

/** What a run computes on. */
export interface Machine {
  readonly devices: Devices;
  /** Of each device. */
  readonly threads: number;
  /** Of all virtual devices and the host together; with GPUs what the host has. */
  readonly memoryBytes: number;
  /** Of the GPUs that devices are on. */
  readonly gpuBytes?: ReadonlyMap<number, number>;
  /** One layout for all calls on all devices. */
  readonly strategy?: ParallelStrategy;
  readonly planFile?: PlanFile;
  readonly microBatchTokens?: number;
  readonly recompute?: Recompute;
  /** What every model's numbers are stored in; f32 where it is absent. */
  readonly storage?: Storage;
  /** What plans are made and judged with; absent where nothing is to be planned. */
  readonly assumptions?: Assumptions;
}

/** The file of a cluster that is planned for, where one is named. */
export async function clusterSaid(o: RunOptions, { plan }: Config): Promise<ClusterFile | null> {
  const path = o.cluster ?? plan.cluster;
  return path === undefined ? null : await readCluster(path);
}

/** Devices of the options, else of the file, else of the cluster. */
function devicesSaid(o: RunOptions, config: Config, file: ClusterFile | null): string {
  return o.devices ?? config.devices ??
    (file ? `cpu:${file.cluster.nodes}x${file.cluster.devicesPerNode}` : "cpu:1");
}

/** What is wrong with what was said of the machine. */
export function machineFaults(o: RunOptions, config: Config, file: ClusterFile | null): (string | false)[] {
  const devices = parseDevices(devicesSaid(o, config, file));
  const host = hosts(o, config);
  return [
    typeof host === "string" && `host ${host}`,
    file !== null && typeof devices === "object" &&
    (devices.nodes !== file.cluster.nodes || devices.perNode !== file.cluster.devicesPerNode) &&
    `devices are ${devices.nodes} × ${devices.perNode} and the cluster has ${file.cluster.nodes} × ${file.cluster.devicesPerNode}, ` +
      `leave devices out or give as many`,
    o.threads !== undefined && positive("threads", o.threads, "whole"),
    o.microBatchTokens !== undefined && positive("microBatchTokens", o.microBatchTokens, "whole"),
    o.recompute !== undefined && oneOf("recompute", o.recompute, RECOMPUTE),
    o.precision !== undefined && oneOf("precision", o.precision, PRECISIONS),
    o.gradients !== undefined && oneOf("gradients", o.gradients, PRECISIONS),
    said(o, config, devices).gradients === "bf16" && said(o, config, devices).precision === "fp32" &&
    `gradients is bf16 and precision is fp32, set precision to bf16 or leave gradients out`,
    typeof devices === "string" && `devices ${devices}`,
    ...layoutFaults(o, config, devices),
  ];
}

/** The machine, where {@link machineFaults} finds nothing wrong. */
export async function machineOf(o: RunOptions, config: Config, file: ClusterFile | null): Promise<Machine> {
  const devices = parseDevices(devicesSaid(o, config, file)) as Devices,
    { strategy, plan } = layoutSaid(o, config),
    { precision, gradients } = said(o, config, devices);
  const threads = o.threads ?? config.threads ?? defaultThreads(),
    microBatchTokens = o.microBatchTokens ?? config.plan.microBatchTokens,
    recompute = o.recompute ?? config.plan.recompute;
  const each = Math.max(1, Math.floor(threads / count(devices))),
    { shipped, ...memories } = memoryOf(devices, config, file);
  return {
    devices,
    threads: each,
    storage: storedIn(precision, gradients, onGpus(devices) ? "rows" : "panels"),
    ...memories,
    ...(count(devices) > 1 || plan !== undefined) && {
      assumptions: await assumed(o, config, file, { devices, threads: each, shipped }),
    },
    ...strategy !== undefined && { strategy: parseStrategy(strategy) as ParallelStrategy },
    ...plan !== undefined && { planFile: await readPlanFile(plan) },
    ...microBatchTokens !== undefined && { microBatchTokens },
    ...recompute !== undefined && { recompute },
  };
}

/** What numbers are stored in where nobody says it: GPUs are made for bf16, and plans for them are planned with it. */
export const usualPrecision = ({ gpus }: Pick<Devices, "gpus">): Precision => gpus ? "bf16" : "fp32";

/** Options win over the file; gradients are fp32 where nobody says otherwise. */
function said(
  o: RunOptions,
  { run }: Config,
  devices: Devices | string,
): { readonly precision: Precision; readonly gradients: Precision } {
  const usual = typeof devices === "string" ? "fp32" : usualPrecision(devices);
  return {
    precision: o.precision ?? run.precision ?? usual,
    gradients: o.gradients ?? run.gradients ?? "fp32",
  };
}

/** Seconds of score calls; a string is what is wrong with them. */
function hosts(o: RunOptions, { plan }: Config): ReturnType<typeof parseHost> {
  const text = o.host ?? plan.host;
  return text === undefined ? {} : parseHost(text);
}

/**
 * What is free, unless the file says how much may be used, or the cluster: of each GPU, where there are some. `shipped` is the
 * profile that comes with Baton for devices like these.
 */
function memoryOf(
  { gpus }: Devices,
  { memoryGiB }: Config,
  file: ClusterFile | null,
): Pick<Machine, "memoryBytes" | "gpuBytes"> & { readonly shipped: string } {
  const said = memoryGiB === undefined ? undefined : memoryGiB * 2 ** 30, host = memory().availableBytes;
  if (!gpus) {
    const all = file ? file.cluster.memoryBytes * file.cluster.nodes * file.cluster.devicesPerNode : Infinity;
    return { memoryBytes: said ?? Math.min(host, all), shipped: "cpu" };
  }
  const found = openGpus(gpus),
    { name } = found[gpus[0]!]!,
    each = said ?? file?.cluster.memoryBytes ?? Infinity;
  return {
    memoryBytes: host,
    gpuBytes: new Map(gpus.map((gpu) => [gpu, Math.min(each, usableBytes(found[gpu]!))])),
    shipped: ["a100", "h200"].find((known) => name.toLowerCase().includes(known)) ?? "h100",
  };
}

/** A profile that is named wins over the cluster's, and that over what was measured of this machine or comes with Baton. */
async function assumed(
  o: RunOptions,
  config: Config,
  file: ClusterFile | null,
  { devices, threads, shipped }: Pick<Machine, "devices" | "threads"> & { readonly shipped: string },
): Promise<Assumptions> {
  const named = o.profile ?? config.plan.profile;
  const made = named !== undefined ? await readProfile(named, "a run") : file?.profile ??
    (devices.gpus ? await readProfile(shipped, "a run") : await profileOfMachine(count(devices), threads));
  // Wherever it was measured, virtual devices of this run share the processors of this machine.
  const profile = onGpus(devices)
    ? { ...made, overlaps: true }
    : { ...made, capacity: capacityOf(threads), overlaps: false };
  const hostSeconds = { ...file?.hostSeconds, ...hosts(o, config) as Readonly<Record<string, number>> };
  return { profile, links: file?.cluster.links ?? profile.links, hostSeconds };
}

/** Whether devices are GPUs (`docs/gpu.md`), each with processors of its own. */
export const onGpus = ({ gpus }: Pick<Devices, "gpus">): boolean =>
  gpus !== undefined || Boolean(Deno.env.get("BATON_GPUS"));

/** A strategy or plan among the options replaces whichever of the two the file has. */
function layoutSaid(
  o: RunOptions,
  { plan: { strategy, file } }: Config,
): { strategy?: string; plan?: string } {
  const said = o.strategy !== undefined || o.plan !== undefined ? o : { strategy, plan: file };
  return {
    ...said.strategy !== undefined && { strategy: said.strategy },
    ...said.plan !== undefined && { plan: said.plan },
  };
}

function layoutFaults(o: RunOptions, config: Config, devices: Devices | string): (string | false)[] {
  const { strategy: text, plan } = layoutSaid(o, config);
  if (text === undefined) return [];
  const strategy = parseStrategy(text);
  const ranks = typeof strategy === "string" ? 0 : strategy.dp * strategy.tp * strategy.pp;
  return [
    typeof strategy === "string" && `strategy ${strategy}`,
    plan !== undefined && `strategy is "${text}" and plan is "${plan}", give one of them`,
    ranks > 0 && typeof devices === "object" && ranks !== count(devices) &&
    `strategy is "${text}", which needs ${ranks} devices, and ${
      count(devices)
    } are given, make them the same number`,
  ];
}

const count = ({ nodes, perNode }: Devices): number => nodes * perNode;
