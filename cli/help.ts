/** Help that teaches: what a command is for, its options with their defaults, and command lines that work. */
import { columns } from "../ir/print.ts";
import type { Command, Option } from "./command.ts";

function optionRow(name: string, option: Option): [string, string] {
  if (option.kind === "flag") return [`--${name}`, option.help];
  const fallback = option.default === undefined ? "" : ` [${option.default}]`;
  return [`--${name} ${option.value}`, option.help + fallback];
}

const examples = (list: readonly (readonly [string, string])[]): string[] =>
  list.flatMap(([line, what]) => [`  # ${what}`, `  ${line}`]);

/** Help of one command. */
export function commandHelp(command: Command): string {
  const rows = Object.entries(command.options).map(([name, option]) => optionRow(name, option));
  return [
    `baton ${command.name}: ${command.summary}`,
    "",
    `usage: baton ${command.name} ${command.usage}`,
    "",
    command.about,
    "",
    "options:",
    columns([...rows, ["--help", "this text"]]),
    "",
    "examples:",
    ...examples(command.examples),
  ].join("\n");
}

/** Help of `baton` itself. */
export function mainHelp(commands: readonly Command[]): string {
  return [
    "baton: RLHF in TypeScript",
    "",
    "usage: baton COMMAND [arguments]        baton COMMAND --help teaches one command",
    "",
    "commands:",
    columns(commands.map(({ name, summary }) => [name, summary])),
    "",
    "An algorithm is a script: it names models, chains their calls into a flow, and closes the flow over a data set.",
    "Run it with Deno (`deno run -A train.ts --help` lists the script's own flags) or with `baton run`.",
    "",
    "start here:",
    ...examples([
      ["baton doctor", "what this machine has and lacks"],
      ["baton graph examples/ppo.ts", "what a script does, without running it"],
      ['baton generate examples/models/couplets --prompt "A silver fox sat on a stone,"', "talk to a model"],
    ]),
    "",
    "Results go to stdout, everything for people to stderr; --json prints one JSON object per line.",
    "Exit codes: 0 done, 1 failed (one line `error: …`; BATON_DEBUG=1 shows the stack), 2 wrong command line.",
  ].join("\n");
}
