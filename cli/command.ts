/** What a command of `baton` is: one description that its help, its options and their checks are made from. */
import { parseArgs } from "./args.ts";

/** One option. A string or number without a default may be absent. */
export type Option =
  | { readonly kind: "flag"; readonly help: string }
  | {
    readonly kind: "string";
    readonly value: string;
    readonly help: string;
    readonly default?: string;
    /** Given several times, the values stand one behind the other with commas between. */
    readonly several?: true;
    /** One letter that means the same. */
    readonly short?: string;
  }
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

/** What help shows of a command. */
interface Described {
  readonly name: string;
  /** One line for the list of commands. */
  readonly summary: string;
  /** What follows the name: "MODEL [options]". */
  readonly usage: string;
  /** What a newcomer has to know, in a few lines. */
  readonly about: string;
  /** Command lines that work, each with what it does. */
  readonly examples: readonly (readonly [line: string, what: string])[];
}

export interface Definition<O extends Options> extends Described {
  /** How many positional arguments it takes. */
  readonly positional: number;
  readonly options: O;
  /** Returns the exit code. */
  readonly run: (invocation: Invocation<O>, io: Io) => Promise<number>;
}

export interface Command extends Described {
  readonly options: Options;
  /** Checks the arguments that follow the name without doing anything. Throws {@link UsageError}. */
  readonly check: (args: readonly string[]) => void;
  /** Checks and runs; returns the exit code. */
  readonly run: (args: readonly string[], io: Io) => Promise<number>;
}

/** A command from its definition, whose types follow from its options. */
export function command<const O extends Options>(definition: Definition<O>): Command {
  return {
    ...definition,
    check: (args) => void parseInvocation(definition, args),
    run: async (args, io) => await definition.run(parseInvocation(definition, args), io),
  };
}

/** A wrong command line: exit code 2, and a pointer to the help. */
export class UsageError extends Error {
  override readonly name = "UsageError";
}

/** Parses and checks the arguments of a command; every fault is in the one error. */
export function parseInvocation<O extends Options>(
  command: Pick<Described, "name" | "usage"> & { readonly positional: number; readonly options: O },
  args: readonly string[],
): Invocation<O> {
  const faults: string[] = [];
  const ofKind = (...kinds: string[]): string[] =>
    Object.entries<Option>(command.options).filter(([, option]) => kinds.includes(option.kind)).map((
      [name],
    ) => name);
  const hint = command.usage.includes("[-- ") ? " (flags of the script come after --)" : "";
  const parsed = parseArgs(args, {
    string: ofKind("string", "number"),
    boolean: ofKind("flag"),
    "--": true,
    collect: Object.entries<Option>(command.options).flatMap(([name, o]) =>
      o.kind === "string" && o.several ? [name] : []
    ),
    alias: Object.fromEntries(
      Object.entries<Option>(command.options).flatMap(([name, o]) =>
        o.kind === "string" && o.short ? [[o.short, name]] : []
      ),
    ),
    unknown: (arg) => faults.push(`there is no option ${arg}${hint}`),
  });
  if (parsed._.length < command.positional) faults.push(`${command.usage.split(" [")[0]} is needed`);
  if (parsed._.length > command.positional) {
    faults.push(`"${parsed._.slice(command.positional).join(" ")}" is one argument too many`);
  }
  const values: Record<string, string | number | boolean | undefined> = {};
  for (const [name, option] of Object.entries<Option>(command.options)) {
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
