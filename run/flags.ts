/** Flags of a script that is run directly: its own, and those that every run has. */
import { z } from "npm:zod@4.6.7";
import { PRECISIONS } from "../compiler/models/storage.ts";
import { type FlagSchema, type FlagValues, parseFlags, splitArguments } from "../dsl/flags.ts";
import type { RunOptions } from "./options.ts";
import { mainScript } from "./resolve.ts";

/**
 * Zod, whose types declare {@link flags}: with it a script needs no package of its own.
 *
 * @example
 * ```ts
 * import { flags, z } from "@baton/baton";
 *
 * const o = flags({ temperature: z.number().positive().default(1).describe("of sampling") });
 * ```
 */
export { z };

const RUN_FLAGS = {
  steps: z.int().positive().optional().describe("steps in all"),
  out: z.string().optional().describe("output folder; runs/NAME by default"),
  seed: z.int().nonnegative().optional().describe("what all randomness starts from"),
  saveEvery: z.int().nonnegative().optional().describe("steps between checkpoints; 0 writes only the last"),
  resume: z.boolean().optional().describe("go on from the newest checkpoint of the output folder"),
  config: z.string().optional().describe("YAML file of the machine and the run"),
  devices: z.string().optional().describe(
    "cpu:8 for 8 virtual devices, cpu:2x4 for 2 nodes of 4, cuda:0,1 for GPUs, cuda:0x4 for 4 on one; cpu:1 by default",
  ),
  strategy: z.string().optional().describe("one layout for all calls on all devices, as dp2tp2pp2"),
  plan: z.string().optional().describe("YAML or JSON file with a layout for every call"),
  replan: z.boolean().optional().describe(
    "plan again at a step's end when lengths or times differ from what was planned with",
  ),
  cluster: z.string().optional().describe("YAML file of a cluster: profile, links and memory to plan with"),
  profile: z.string().optional().describe("file of a profile to plan with; this machine's own by default"),
  host: z.string().optional().describe("seconds of score calls in a step, as rewards=0.05,judge=2"),
  threads: z.int().positive().optional().describe(
    "CPU threads of all devices together; all cores by default",
  ),
  precision: z.enum(PRECISIONS).optional().describe(
    "what parameters, activations and KV pages are stored in; bf16 on GPUs and fp32 on the CPU by default",
  ),
  gradients: z.enum(PRECISIONS).optional().describe("what gradients are stored in with --precision bf16"),
  saveDtype: z.enum(["f32", "bf16"]).optional().describe(
    "number format of the exported models; that of --precision by default",
  ),
  saveLora: z.enum(["merged", "adapter"]).optional().describe(
    "of a model with an adapter: export it merged as well (the default), or the adapter alone",
  ),
  quiet: z.boolean().optional().describe("no progress on stderr"),
} as const;

/** What `flags()` was given so far: a script and the scripts that it imports may each declare theirs. */
let declared: FlagSchema | null = null;

/**
 * Flags of a script, from the command line. `--help` lists them together with those of every run and ends the process; a
 * mistake ends it with one line. A name `learningRate` is the flag `--learning-rate`. A script that imports another one has
 * the flags of both: the importing one checks them all.
 *
 * @param schema a zod type per flag; give defaults, and `.describe()` for the help
 * @example
 * ```ts
 * import { flags, z } from "@baton/baton";
 *
 * const o = flags({ lr: z.number().positive().default(1e-4), groups: z.int().default(8).describe("samples per prompt") });
 * console.log(o.lr, o.groups);
 * ```
 */
export function flags<const S extends FlagSchema>(schema: S): FlagValues<S> {
  plainErrors();
  const all = { ...RUN_FLAGS, ...declared = { ...declared, ...schema } }, imported = isImported();
  // The rest of an imported script's arguments are its importer's, whose flags are declared after it.
  const args = imported ? splitArguments(all, Deno.args).own.filter((arg) => !isHelp(arg)) : Deno.args;
  const values = orExit(() => parse(all, args)) as Readonly<Record<string, unknown>>;
  return Object.fromEntries(Object.keys(schema).map((name) => [name, values[name]])) as FlagValues<S>;
}

const isHelp = (arg: string): boolean => arg === "--help" || arg === "-h";

/** True when the module that calls `flags` is not the one that was started, but a part of it. */
function isImported(): boolean {
  const modules = (new Error().stack ?? "").matchAll(/((?:file|https?):[^\s()]+?):\d+:\d+/g);
  const caller = [...modules].map((m) => m[1]!).find((url) => url !== import.meta.url);
  return mainScript() !== null && caller !== undefined && caller !== Deno.mainModule;
}

/**
 * What the command line says about the run itself. Where the script declared flags, the others were refused; where it did
 * not, the arguments may be a program's own: what no run knows is left alone, and said.
 */
export function runFlags(): RunOptions {
  const known = { ...RUN_FLAGS, ...declared }, { own, others } = splitArguments(known, Deno.args);
  if (!declared && others.length) {
    console.error(`note: ${others.join(" ")} is no flag of a run, declare the script's own with flags()`);
  }
  const values = parse(known, declared ? Deno.args : own) as Record<string, unknown>;
  const given = Object.keys(RUN_FLAGS).filter((name) =>
    values[name] !== undefined && !(declared && name in declared)
  );
  return Object.fromEntries(given.map((name) => [name, values[name]]));
}

function parse(schema: FlagSchema, args: readonly string[] = Deno.args): FlagValues<FlagSchema> {
  const parsed = parseFlags(schema, args);
  if (parsed.kind === "values") return parsed.values;
  console.log(parsed.text.trimEnd());
  Deno.exit(0);
}

/** True where a script is imported for its score functions. */
export const inWorker = (): boolean => "WorkerGlobalScope" in globalThis;

/** One line and exit code 1 instead of a stack trace; with BATON_DEBUG=1 the error is thrown. */
function orExit<T>(f: () => T): T {
  try {
    return f();
  } catch (error) {
    // In a worker the main thread reports.
    if (inWorker() || debugging()) throw error;
    return exitWith(error);
  }
}

let plain = false;

/** From now on an error of Baton's own that nobody catches ends the process with its one line and exit code 1. */
export function plainErrors(): void {
  if (plain || inWorker() || debugging()) return;
  plain = true;
  globalThis.addEventListener("unhandledrejection", (event) => {
    if (!(event.reason instanceof Error) || !event.reason.message.startsWith("Cannot ")) return;
    event.preventDefault();
    exitWith(event.reason);
  });
}

const debugging = (): boolean => Deno.env.get("BATON_DEBUG") === "1";

function exitWith(error: unknown): never {
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  Deno.exit(1);
}
