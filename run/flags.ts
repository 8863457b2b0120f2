/** Flags of a script that is run directly: its own, and those that every run has. */
import { z } from "npm:zod@4.6.7";
import { type FlagSchema, type FlagValues, kebab, parseFlags } from "../dsl/flags.ts";
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

let declared: FlagSchema | null = null;

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

/**
 * What the command line says about the run itself. Where the script declared flags, the others were refused; where it did
 * not, the arguments may be a program's own: what no run knows is left alone, and said.
 */
export function runFlags(): RunOptions {
  const known = { ...RUN_FLAGS, ...declared }, own = declared ? Deno.args : knownArguments(Deno.args);
  const values = parse(known, own) as Record<string, unknown>;
  const given = Object.keys(RUN_FLAGS).filter((name) =>
    values[name] !== undefined && !(declared && name in declared)
  );
  return Object.fromEntries(given.map((name) => [name, values[name]]));
}

/** Arguments that belong to flags of every run. */
function knownArguments(args: readonly string[]): readonly string[] {
  const names = new Map(Object.entries(RUN_FLAGS).map(([name, type]) => [kebab(name), type]));
  const known: string[] = [], left: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const spelled = /^--(?:no-)?([^=]+)/.exec(args[i]!)?.[1] ?? "", type = names.get(spelled);
    const takesNext = type !== undefined && !(type.unwrap() instanceof z.ZodBoolean) &&
      !args[i]!.includes("=");
    const isKnown = type !== undefined || args[i] === "--help" || args[i] === "-h";
    (isKnown ? known : left).push(args[i]!, ...(takesNext && i + 1 < args.length ? [args[++i]!] : []));
  }
  if (left.length) {
    console.error(`note: ${left.join(" ")} is no flag of a run, declare the script's own with flags()`);
  }
  return known;
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
