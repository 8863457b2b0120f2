/**
 * Command-line arguments with the call shape of `parseArgs` from @std/cli, for the part of it that Baton uses
 * (docs/decisions/0001-npm-only.md): to go back, replace this file by a re-export of `@std/cli/parse-args`.
 */

/** Which flags there are. What is in neither `boolean` nor `string` is unknown. */
export interface ParseOptions {
  /** Flags without a value. */
  readonly boolean?: readonly string[];
  /** Flags with a value: `--name value` or `--name=value`. */
  readonly string?: readonly string[];
  /** Flags of `string` whose values are joined with commas where several are given. */
  readonly collect?: readonly string[];
  /** Flags that may be turned off as `--no-name`. */
  readonly negatable?: readonly string[];
  /** Short name → long name. */
  readonly alias?: Readonly<Record<string, string>>;
  readonly default?: Readonly<Record<string, string | boolean>>;
  /** Puts what follows `--` into `"--"` instead of `_`. */
  readonly "--"?: boolean;
  /** Called for a flag that is not declared. */
  readonly unknown?: (arg: string, key?: string, value?: string) => unknown;
}

/** Flags by their long name; positional arguments in `_`. */
export interface ParsedArgs {
  readonly _: readonly string[];
  readonly "--": readonly string[];
  readonly [name: string]: string | boolean | readonly string[] | undefined;
}

const FLAG = /^(?:--([^=]+)|-([A-Za-z]))(?:=(.*))?$/s;

/**
 * Splits arguments into flags and positional arguments. A flag of `string` that has no value gets `""`, and the last
 * of several wins, as in @std/cli.
 *
 * ```ts
 * import assert from "node:assert/strict";
 * import { parseArgs } from "./args.ts";
 *
 * const args = parseArgs(["model", "--seed", "7", "--json"], { string: ["seed"], boolean: ["json"] });
 * assert.deepEqual([args._, args.seed, args.json], [["model"], "7", true]);
 * ```
 */
export function parseArgs(args: readonly string[], options: ParseOptions = {}): ParsedArgs {
  const flags: Record<string, string | boolean> = {
    ...Object.fromEntries((options.boolean ?? []).map((name) => [name, false])),
    ...options.default,
  };
  const positional: string[] = [];
  const rest: string[] = [];
  for (let i = 0; i < args.length; i++) {
    const arg = args[i]!;
    if (arg === "--") {
      (options["--"] ? rest : positional).push(...args.slice(i + 1));
      break;
    }
    const match = FLAG.exec(arg);
    if (match === null) {
      positional.push(arg);
      continue;
    }
    const given = match[1] ?? match[2]!;
    const name = options.alias?.[given] ?? given;
    const inline = match[3];
    const negated = name.startsWith("no-") ? name.slice(3) : "";
    if (options.string?.includes(name)) {
      const next = args[i + 1];
      // A value may be a negative number, but not the next flag.
      const takesNext = inline === undefined && next !== undefined && !/^-(?!\d|\.\d|$)/.test(next);
      const value = inline ?? (takesNext ? next : ""), before = flags[name];
      flags[name] = options.collect?.includes(name) && typeof before === "string"
        ? `${before},${value}`
        : value;
      if (takesNext) i++;
    } else if (options.boolean?.includes(name)) flags[name] = inline !== "false";
    else if (options.negatable?.includes(negated)) flags[negated] = false;
    else options.unknown?.(arg, name, inline);
  }
  return { ...flags, _: positional, "--": rest };
}
