/** The machine of a run and how its calls share it: options win over the configuration's file. */
import { type Precision, PRECISIONS, storedIn } from "../compiler/models/storage.ts";
import { oneOf, positive } from "../dsl/options.ts";
import type { Config } from "../engine/config.ts";
import { openGpus } from "../ffi/gpus.ts";
import { type Devices, parseDevices, parseStrategy } from "../ir/notation.ts";
import type { ParallelStrategy } from "../ir/plan.ts";
import { memory } from "./available.ts";
import { defaultThreads, type RunOptions } from "./options.ts";
import { readPlanFile } from "./plan_file.ts";
import type { Machine } from "./prepare.ts";

/** What is wrong with what was said of the machine. */
export function machineFaults(o: RunOptions, config: Config): (string | false)[] {
  const devices = parseDevices(o.devices ?? config.devices);
  return [
    o.threads !== undefined && positive("threads", o.threads, "whole"),
    o.microBatchTokens !== undefined && positive("microBatchTokens", o.microBatchTokens, "whole"),
    o.recompute !== undefined && oneOf("recompute", o.recompute, ["nothing", "cheap", "layers"]),
    o.precision !== undefined && oneOf("precision", o.precision, PRECISIONS),
    o.gradients !== undefined && oneOf("gradients", o.gradients, PRECISIONS),
    said(o, config).gradients === "bf16" && said(o, config).precision === "fp32" &&
    `gradients is bf16 and precision is fp32, set precision to bf16 or leave gradients out`,
    typeof devices === "string" && `devices ${devices}`,
    ...layoutFaults(o, config, devices),
  ];
}

/** The machine, where {@link machineFaults} finds nothing wrong. */
export async function machineOf(o: RunOptions, config: Config): Promise<Machine> {
  const devices = parseDevices(o.devices ?? config.devices) as Devices,
    { strategy, plan } = layoutSaid(o, config),
    { precision, gradients } = said(o, config);
  const threads = o.threads ?? config.threads ?? defaultThreads(),
    microBatchTokens = o.microBatchTokens ?? config.plan.microBatchTokens,
    recompute = o.recompute ?? config.plan.recompute;
  return {
    devices,
    threads: Math.max(1, Math.floor(threads / count(devices))),
    storage: storedIn(precision, gradients),
    ...memoryOf(devices, config),
    ...strategy !== undefined && { strategy: parseStrategy(strategy) as ParallelStrategy },
    ...plan !== undefined && { planFile: await readPlanFile(plan) },
    ...microBatchTokens !== undefined && { microBatchTokens },
    ...recompute !== undefined && { recompute },
  };
}

/** Options win over the file; gradients are fp32 where nobody says otherwise. */
const said = (o: RunOptions, { run }: Config): { precision: Precision; gradients: Precision } => ({
  precision: o.precision ?? run.precision,
  gradients: o.gradients ?? run.gradients,
});

/** What is free, unless the file says how much may be used: of each GPU, where there are some. */
function memoryOf(
  { gpus }: Devices,
  { memoryGiB }: Config,
): Pick<Machine, "memoryBytes" | "gpuBytes" | "profile"> {
  const said = memoryGiB === undefined ? undefined : memoryGiB * 2 ** 30, host = memory().availableBytes;
  if (!gpus) return { memoryBytes: said ?? host };
  const found = openGpus(gpus), { name } = found[gpus[0]!]!;
  return {
    memoryBytes: host,
    gpuBytes: new Map(gpus.map((gpu) => [gpu, Math.min(said ?? Infinity, found[gpu]!.freeBytes)])),
    profile: ["a100", "h200"].find((known) => name.toLowerCase().includes(known)) ?? "h100",
  };
}

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
