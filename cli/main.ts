/** The `baton` command: finds the command, runs it, and turns every failure into one line and an exit code. */
import config from "../deno.json" with { type: "json" };
import { type Command, type Io, UsageError } from "./command.ts";
import { doctor } from "./doctor.ts";
import { evaluate } from "./eval.ts";
import { generate } from "./generate.ts";
import { graph } from "./graph.ts";
import { commandHelp, mainHelp } from "./help.ts";
import { plan } from "./plan.ts";
import { profile } from "./profile.ts";
import { run } from "./run.ts";
import { score } from "./score.ts";

export const COMMANDS: readonly Command[] = [run, plan, profile, graph, generate, score, evaluate, doctor];

/** One line of an error. Messages of several lines (every violation of a file) are joined. */
function errorLine(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  return `error: ${message.trim().replace(/\s*\n\s*/g, " ")}`;
}

/** Runs one command line; returns the exit code. `debug` prints stacks. */
export async function main(args: readonly string[], io: Io, debug = false): Promise<number> {
  const [name, ...rest] = args;
  if (name === undefined || name === "help" || name === "--help" || name === "-h") {
    const wanted = COMMANDS.find((command) => command.name === rest[0]);
    io.out(wanted ? commandHelp(wanted) : mainHelp(COMMANDS));
    return 0;
  }
  if (name === "--version") {
    io.out(config.version);
    return 0;
  }
  try {
    const command = COMMANDS.find((command) => command.name === name);
    if (!command) {
      throw new UsageError(`Cannot run baton ${name}: there is no such command, choose from ${names()}`);
    }
    const own = rest.includes("--") ? rest.slice(0, rest.indexOf("--")) : rest;
    if (own.includes("--help") || own.includes("-h")) {
      io.out(commandHelp(command));
      return 0;
    }
    return await command.run(rest, io);
  } catch (error) {
    // The reader of a pipe has what it wanted and left (`| head`).
    if (error instanceof Deno.errors.BrokenPipe) return 0;
    io.err(errorLine(error));
    if (debug && error instanceof Error) io.err(error.stack ?? "");
    if (!(error instanceof UsageError)) return 1;
    io.err(`baton ${COMMANDS.some((c) => c.name === name) ? `${name} ` : ""}--help shows how it is used`);
    return 2;
  }
}

const names = (): string => COMMANDS.map((command) => command.name).join(", ");

/** Whole lines to the real streams, before the next step: a crash must not lose results. */
export const terminal: Io = {
  out: (line) => writeLine(Deno.stdout, line),
  err: (line) => writeLine(Deno.stderr, line),
};

function writeLine(stream: { writeSync(bytes: Uint8Array): number }, line: string): void {
  const bytes = new TextEncoder().encode(`${line}\n`);
  for (let done = 0; done < bytes.length;) done += stream.writeSync(bytes.subarray(done));
}

if (import.meta.main) Deno.exit(await main(Deno.args, terminal, Deno.env.get("BATON_DEBUG") === "1"));
