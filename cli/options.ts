/** Options that several commands share. */
import type { Precision } from "../compiler/models/storage.ts";
import type { RunOptions } from "../run/options.ts";
import type { ModelOptions } from "../run/single_model.ts";
import type { Options } from "./command.ts";

/** CPU threads, for every command that computes. */
export const THREADS = {
  threads: { kind: "number", value: "N", help: "CPU threads; all cores by default", integer: true, min: 1 },
} as const satisfies Options;

/** Seconds of score calls. */
export const HOST = {
  kind: "string",
  value: "NAME=SECONDS",
  help: "what a score call takes in a step; several, with commas or flags",
  several: true,
} as const;
/** How the numbers of models are stored. */
export const PRECISION = {
  precision: {
    kind: "string",
    value: "fp32|bf16",
    help: "what parameters, activations and KV pages are stored in; bf16 on GPUs, fp32 on the CPU by default",
  },
  gradients: {
    kind: "string",
    value: "fp32|bf16",
    help: "what gradients are stored in with --precision bf16; fp32 by default",
  },
} as const satisfies Options;

/** What the command line may change of any use of a workflow; the script and its YAML say the rest. */
export const RUN_OPTIONS = {
  config: { kind: "string", value: "FILE.yaml", help: "the machine and the run; flags win over it" },
  out: { kind: "string", value: "FOLDER", help: "output folder; runs/NAME by default" },
  seed: { kind: "number", value: "S", help: "what all randomness starts from", integer: true, min: 0 },
  devices: {
    kind: "string",
    value: "KIND:N",
    help:
      "cpu:8 for virtual devices, cpu:2x4 for 2 nodes of 4, cuda:0,1 for GPUs, cuda:0x4 for 4 on one; cpu:1 by default",
  },
  strategy: { kind: "string", value: "dpNtpNppN", help: "one layout for all calls on all devices" },
  plan: { kind: "string", value: "FILE", help: "YAML or JSON file with a layout for every call" },
  cluster: { kind: "string", value: "FILE.yaml", help: "a cluster's profile, links and memory to plan with" },
  profile: { kind: "string", value: "FILE", help: "a profile to plan with; this machine's own by default" },
  host: HOST,
  ...THREADS,
  ...PRECISION,
} as const satisfies Options;

/** How one model is loaded, for `generate` and `score`: what is absent stays absent. */
export function modelOptions(
  values: { readonly threads: number | undefined; readonly precision: string | undefined },
): ModelOptions {
  const { threads, precision } = values;
  return {
    ...threads !== undefined && { threads },
    ...precision !== undefined && { precision: precision as Precision },
  };
}

/** Options as they are written; whether a precision is one is looked at with all else that may be wrong with a run. */
type Given = {
  readonly [K in keyof RunOptions]?:
    | (K extends "precision" | "gradients" ? string : RunOptions[K])
    | undefined;
};

/** The options that were given: what is absent must stay absent, so that YAML and defaults apply. */
export function runOptions(values: Given & { readonly json?: boolean }): RunOptions {
  const names = [
    "config",
    "out",
    "seed",
    "devices",
    "strategy",
    "plan",
    "cluster",
    "profile",
    "host",
    "replan",
    "threads",
    "precision",
    "gradients",
    "steps",
    "saveEvery",
    "resume",
  ] as const;
  const given = names.filter((name) => values[name] !== undefined && values[name] !== false);
  return Object.fromEntries(given.map((name) => [name, values[name]]));
}
