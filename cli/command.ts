/** What a command of `baton` is: one description that its help, its options and their checks are made from. */
import { parseArgs } from "./args.ts";

/** One option. A string or number without a default may be absent. */
export type Option =
  | { readonly kind: "flag"; readonly help: string }
  | { readonly kind: "string"; readonly value: string; readonly help: string; readonly default?: string }
  | {
    readonly kind: "number";
    readonly value: string;
    readonly help: string;
    readonly default?: number;
    readonly integer?: true;
    readonly min?: number;
    readonly max?: number;
  };
export type Options = Readonly<Record<string, Option>>;

/** What the options of a command are once parsed. */
export type Values<O extends Options> = {
  readonly [K in keyof O]: O[K] extends { kind: "flag" } ? boolean
    : O[K] extends { kind: "string"; default: string } ? string
    : O[K] extends { kind: "string" } ? string | undefined
    : O[K] extends { kind: "number"; default: number } ? number
    : number | undefined;
};

/** Where a command writes: results and human text never share a stream. */
export interface Io {
  /** One line of result, to stdout. */
  readonly out: (line: string) => void;
  /** One line for people, to stderr. */
  readonly err: (line: string) => void;
}

export interface Invocation<O extends Options> {
  readonly positional: readonly string[];
  /** What follows `--`. */
  readonly rest: readonly string[];
  readonly values: Values<O>;
}

export interface Command<O extends Options = Options> {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** What follows the name: "MODEL [options]". */
  readonly usage: string;
  /** How many positional arguments it takes. */
  readonly positional: number;
  /** What a newcomer has to know, in a few lines. */
  readonly about: string;
  readonly options: O;
  /** Command lines that work, each with what it does. */
  readonly examples: readonly (readonly [line: string, what: string])[];
  /** Returns the exit code. */
  readonly run: (invocation: Invocation<O>, io: Io) => Promise<number>;
}

/** Infers the types of a command's options. */
export function command<const O extends Options>(definition: Command<O>): Command<O> {
  return definition;
}

/** A wrong command line: exit code 2, and a pointer to the help. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** Parses and checks the arguments of a command; every fault is in the one error. */
export function parseInvocation<O extends Options>(
  command: Command<O>,
  args: readonly string[],
): Invocation<O> {
  const faults: string[] = [];
  const ofKind = (...kinds: string[]): string[] =>
    Object.entries(command.options).filter(([, option]) => kinds.includes(option.kind)).map(([name]) => name);
  const parsed = parseArgs(args, {
    string: ofKind("string", "number"),
    boolean: ofKind("flag"),
    "--": true,
    unknown: (arg) => faults.push(`there is no option ${arg}`),
  });
  if (parsed._.length < command.positional) faults.push(`${command.usage.split(" [")[0]} is needed`);
  if (parsed._.length > command.positional) {
    faults.push(`"${parsed._.slice(command.positional).join(" ")}" is one argument too many`);
  }
  const values: Record<string, string | number | boolean | undefined> = {};
  for (const [name, option] of Object.entries(command.options)) {
    const given = parsed[name];
    if (option.kind === "flag") values[name] = given === true;
    else if (typeof given !== "string") values[name] = option.default;
    else if (given === "") faults.push(`--${name} needs a value, as --${name}=${option.value}`);
    else if (option.kind === "string") values[name] = given;
    else {
      const number = Number(given);
      const { integer, min = -Infinity, max = Infinity } = option;
      if (
        !Number.isFinite(number) || (integer && !Number.isInteger(number)) || number < min || number > max
      ) {
        faults.push(`--${name} is "${given}" and has to be ${range(option)}`);
      }
      values[name] = number;
    }
  }
  if (faults.length) throw new UsageError(`Cannot run baton ${command.name}: ${faults.join("; ")}`);
  return { positional: parsed._, rest: parsed["--"], values: values as Values<O> };
}

function range({ integer, min, max }: { integer?: true; min?: number; max?: number }): string {
  const what = integer ? "a whole number" : "a number";
  if (min === undefined) return what;
  return max === undefined ? `${what} of at least ${min}` : `${what} from ${min} to ${max}`;
}
