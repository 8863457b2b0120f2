/** What may be said about a run beside its script, and where it comes from: script, YAML, then flags. */

import type { Precision } from "../compiler/models/storage.ts";
import type { Recompute } from "../ir/plan.ts";

/** Options of `run` and `steps`. */
export interface RunOptions {
  /** Steps in all; a resumed run goes on to the same number. */
  readonly steps?: number;
  readonly seed?: number;
  /** Output folder; `runs/NAME` by default. */
  readonly out?: string;
  /** Steps between checkpoints; 0 writes only the last. */
  readonly saveEvery?: number;
  /** Continue from the newest checkpoint in `out`. */
  readonly resume?: boolean;
  /** YAML file of the machine and the run. */
  readonly config?: string;
  /**
   * "cpu:8" for 8 virtual devices, "cpu:2x4" for 2 nodes of 4; "cuda:0,1" for two GPUs, "cuda:0x4" for 4 devices on the first; "cpu:1"
   * by default.
   */
  readonly devices?: string;
  /** One layout for all calls on all devices: "dp2tp2pp2". */
  readonly strategy?: string;
  /** YAML or JSON file with a layout for every call. */
  readonly plan?: string;
  /** YAML file of a cluster, as `baton plan` takes it: profile, links and memory of the devices that plans are made for. */
  readonly cluster?: string;
  /** What plans are made with: a profile's file, or the name of a shipped one; this machine's own by default. */
  readonly profile?: string;
  /** Seconds that score calls take for a whole step: "rewards=0.05". */
  readonly host?: string;
  /** Plans again at a step's end when lengths or times differ from what was planned with. */
  readonly replan?: boolean;
  /** CPU threads of all devices together; all cores by default. */
  readonly threads?: number;
  readonly microBatchTokens?: number;
  readonly recompute?: Recompute;
  /**
   * What parameters, activations and KV pages are stored in; "bf16" on GPUs and "fp32" on the CPU by default. Trained bf16 parameters have
   * an fp32 master copy.
   */
  readonly precision?: Precision;
  /** What gradients are stored in where `precision` is "bf16": "fp32" by default, or "bf16" for 16 bytes per trained parameter. */
  readonly gradients?: Precision;
  /** No progress on stderr. */
  readonly quiet?: boolean;
  /** Number format of exported models; that of `precision` by default. */
  readonly saveDtype?: "f32" | "bf16";
  /** What is exported of a model with an adapter: it and the model merged with it (the default), or the adapter alone. */
  readonly saveLora?: "merged" | "adapter";
  /** Module that exports the workflow, where it is not the main one: score functions are imported from it again in a worker. */
  readonly script?: string;
}

export const defaultThreads = (): number => navigator.hardwareConcurrency;
