/** Flags of a script that is run directly: its own, and those that every run has. */
import { z } from "npm:zod@4.6.7";
import { type FlagSchema, type FlagValues, parseFlags } from "../dsl/flags.ts";
import type { RunOptions } from "./options.ts";

const RUN_FLAGS = {
  steps: z.int().positive().optional().describe("steps in all"),
  out: z.string().optional().describe("output folder; runs/NAME by default"),
  seed: z.int().nonnegative().optional().describe("what all randomness starts from"),
  saveEvery: z.int().nonnegative().optional().describe("steps between checkpoints; 0 writes only the last"),
  resume: z.boolean().optional().describe("go on from the newest checkpoint of the output folder"),
  config: z.string().optional().describe("YAML file of the machine and the run"),
  devices: z.string().optional().describe("cpu:1"),
  threads: z.int().positive().optional().describe("CPU threads; all cores by default"),
  saveDtype: z.enum(["f32", "bf16"]).optional().describe("number format of the exported models"),
  quiet: z.boolean().optional().describe("no progress on stderr"),
} as const;

let declared: FlagSchema = {};

/**
 * Flags of a script, from the command line. `--help` lists them together with those of every run and ends the process; a
 * mistake ends it with one line. A name `learningRate` is the flag `--learning-rate`.
 *
 * @param schema a zod type per flag; give defaults, and `.describe()` for the help
 * @example
 * ```ts
 * import { flags } from "@baton/baton";
 * import { z } from "zod";
 *
 * const o = flags({ lr: z.number().positive().default(1e-4), groups: z.int().default(8).describe("samples per prompt") });
 * console.log(o.lr, o.groups);
 * ```
 */
export function flags<const S extends FlagSchema>(schema: S): FlagValues<S> {
  declared = schema;
  return orExit(() => parse({ ...RUN_FLAGS, ...schema }) as FlagValues<S>);
}

/** What the command line says about the run itself; flags that nobody declared are refused. */
export function runFlags(): RunOptions {
  const values = parse({ ...RUN_FLAGS, ...declared }) as Record<string, unknown>;
  const own = Object.keys(RUN_FLAGS).filter((name) => values[name] !== undefined && !(name in declared));
  return Object.fromEntries(own.map((name) => [name, values[name]]));
}

function parse(schema: FlagSchema): FlagValues<FlagSchema> {
  const parsed = parseFlags(schema, Deno.args);
  if (parsed.kind === "values") return parsed.values;
  console.log(parsed.text.trimEnd());
  Deno.exit(0);
}

/** True where a script is imported for its score functions. */
export const inWorker = (): boolean => "WorkerGlobalScope" in globalThis;

/** One line and exit code 1 instead of a stack trace; with BATON_DEBUG=1 the error is thrown. */
export function orExit<T>(f: () => T): T {
  try {
    return f();
  } catch (error) {
    return exitWith(error);
  }
}

export function exitWith(error: unknown): never {
  // In a worker the main thread reports.
  if (inWorker() || Deno.env.get("BATON_DEBUG") === "1") throw error;
  console.error(`error: ${error instanceof Error ? error.message : String(error)}`);
  Deno.exit(1);
}
