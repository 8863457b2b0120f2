/** Flags of a script: declared as a zod schema, parsed from the arguments that the caller gives. Touches no environment. */
import { z } from "npm:zod@4.6.7";

/** Flags by name; a name `learningRate` is the flag `--learning-rate`. */
export type FlagSchema = Readonly<Record<string, z.ZodType>>;
export type FlagValues<S extends FlagSchema> = { readonly [K in keyof S]: z.infer<S[K]> };
export type ParsedFlags<S extends FlagSchema> =
  | { readonly kind: "values"; readonly values: FlagValues<S> }
  | { readonly kind: "help"; readonly text: string };

interface Flag {
  readonly name: string;
  readonly spelling: string;
  readonly type: z.ZodType;
  /** The type under optional, default and the like. */
  readonly inner: z.ZodType;
}

export const kebab = (name: string): string => name.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`);
const wrapped = (type: z.ZodType): z.ZodType | undefined =>
  (type.def as { readonly innerType?: z.ZodType }).innerType;

function flagsOf(schema: FlagSchema): readonly Flag[] {
  return Object.entries(schema).map(([name, type]) => {
    let inner = type;
    for (let next = wrapped(inner); next; next = wrapped(inner)) inner = next;
    return { name, spelling: kebab(name), type, inner };
  });
}

/**
 * Values of the flags in `args`: `--lr 1e-3`, `--lr=1e-3`, `--shuffle`, `--no-shuffle`, `--betas 0.9,0.95`; or the help text when
 * `--help` is among them.
 *
 * @throws TypeError that lists every unknown flag, missing value and value out of range
 * @example
 * ```ts
 * import assert from "node:assert/strict";
 * import { z } from "zod";
 * import { parseFlags } from "./flags.ts";
 *
 * const schema = { lr: z.number().positive().default(1e-3), shuffle: z.boolean().default(true) };
 * const parsed = parseFlags(schema, ["--lr", "3e-4", "--no-shuffle"]);
 * assert.deepEqual(parsed, { kind: "values", values: { lr: 3e-4, shuffle: false } });
 * ```
 */
export function parseFlags<const S extends FlagSchema>(schema: S, args: readonly string[]): ParsedFlags<S> {
  const flags = flagsOf(schema);
  if (args.includes("--help") || args.includes("-h")) return { kind: "help", text: helpText(flags) };
  const problems: string[] = [], raw: Record<string, unknown> = {};
  for (let i = 0; i < args.length; i++) {
    const [, spelled, value] = /^--([^=]+)(?:=(.*))?$/s.exec(args[i]!) ?? [];
    if (spelled === undefined) {
      problems.push(`"${args[i]}" belongs to no flag`);
      continue;
    }
    const off = flags.find((f) => f.inner.type === "boolean" && spelled === `no-${f.spelling}`);
    const flag = off ?? flags.find((f) => f.spelling === spelled || f.name === spelled);
    if (!flag) problems.push(`there is no flag --${spelled}`);
    else if (off) raw[flag.name] = false;
    else if (flag.inner.type === "boolean" && value === undefined) raw[flag.name] = true;
    else if (value === undefined && i + 1 >= args.length) problems.push(`--${spelled} needs a value`);
    else raw[flag.name] = convert(flag.inner, value ?? args[++i]!);
  }
  const values: Record<string, unknown> = {};
  for (const flag of flags) {
    const result = flag.type.safeParse(raw[flag.name]);
    if (result.success) values[flag.name] = result.data;
    else if (!(flag.name in raw)) problems.push(`--${flag.spelling} is required`);
    else {problems.push(...result.error.issues.map((issue) =>
        `--${flag.spelling}: ${sentence(issue.message)}`
      ));}
  }
  if (problems.length) {
    throw new TypeError(`Cannot read the flags: ${problems.join("; ")}, --help lists all`);
  }
  return { kind: "values", values: values as FlagValues<S> };
}

/** Arguments that belong to flags of the schema, and the others: those of another part of the program. */
export function splitArguments(schema: FlagSchema, args: readonly string[]) {
  const flags = flagsOf(schema), own: string[] = [], others: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const [, spelled, value] = /^--([^=]+)(=.*)?$/s.exec(args[i]!) ?? [];
    const flag = flags.find((f) =>
      [f.spelling, f.name, ...f.inner.type === "boolean" ? [`no-${f.spelling}`] : []].includes(spelled ?? "")
    );
    const asked = args[i] === "--help" || args[i] === "-h";
    (flag || asked ? own : others).push(args[i]!);
    if (flag && flag.inner.type !== "boolean" && value === undefined && i + 1 < args.length) {
      own.push(args[++i]!);
    }
  }
  return { own, others } as const;
}

/** An issue of zod without its opening words. */
const sentence = (message: string): string => message.replace(/^Invalid input: /, "");

/** Text as the type wants it; what does not convert is left for the schema to refuse. */
function convert(type: z.ZodType, text: string): unknown {
  const def = type.def as { readonly element?: z.ZodType; readonly items?: readonly z.ZodType[] };
  if (type.type === "array") {
    return text === "" ? [] : text.split(",").map((part) => convert(def.element!, part));
  }
  if (type.type === "tuple") {
    return text.split(",").map((part, i) => convert(def.items![i] ?? z.string(), part));
  }
  if (type.type === "boolean") return text === "true" ? true : text === "false" ? false : text;
  if (type.type !== "number" && type.type !== "int") return text;
  return text.trim() === "" || Number.isNaN(Number(text)) ? text : Number(text);
}

function helpText(flags: readonly Flag[]): string {
  const rows = flags.map((f) => {
    const form = f.inner.type === "boolean"
      ? `--[no-]${f.spelling}`
      : `--${f.spelling} ${placeholder(f.inner)}`;
    const initial = f.type.safeParse(undefined);
    const about = [f.type.description ?? f.inner.description ?? "", fallback(initial)].filter((s) =>
      s !== ""
    );
    return [form, about.join(" ")] as const;
  });
  const width = Math.max(0, ...rows.map(([form]) => form.length));
  return ["Flags:", ...rows.map(([form, about]) => `  ${form.padEnd(width)}  ${about}`.trimEnd())].join(
    "\n",
  ) + "\n";
}

function fallback(initial: z.ZodSafeParseResult<unknown>): string {
  if (!initial.success) return "(required)";
  const value = Array.isArray(initial.data) ? initial.data.join(",") : String(initial.data ?? "");
  return value === "" ? "" : `(default ${value})`;
}

function placeholder(type: z.ZodType): string {
  const { entries } = type.def as { readonly entries?: Readonly<Record<string, string>> };
  if (entries) return Object.values(entries).join("|");
  return type.type === "number" ? "N" : type.type === "array" || type.type === "tuple" ? "A,B,…" : "TEXT";
}
