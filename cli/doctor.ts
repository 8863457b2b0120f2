/** `baton doctor`: what this machine has and lacks, each lack with its fix. */
import { command } from "./command.ts";
import { type Check, checks, type Machine } from "./diagnosis.ts";
import { inspect } from "./machine.ts";

/** A table for people. */
export function doctorText(list: readonly Check[]): string {
  const width = Math.max(...list.map(({ name }) => name.length));
  const marks = { ok: "✓", missing: "✗", optional: "–" } as const;
  return list.flatMap(({ name, state, found, fix }) => [
    `${marks[state]} ${name.padEnd(width)}  ${found}`,
    ...(fix === undefined ? [] : [`${" ".repeat(width + 4)}→ ${fix}`]),
  ]).join("\n");
}

/** The command over any machine, so that it can be tried on machines that are not this one. */
export const doctorFor = (machine: () => Promise<Machine>) =>
  command({
    name: "doctor",
    summary: "what this machine has and lacks",
    usage: "[options]",
    positional: 0,
    about: [
      "Looks at what Baton uses: ✓ is there, ✗ is needed and missing, – is missing and only some things need it.",
      "Every lack says how to mend it. Exit code 1 when something needed is missing.",
    ].join("\n"),
    options: { json: { kind: "flag", help: "one line of JSON per check" } },
    examples: [
      ["baton doctor", "a table"],
      ["baton doctor --json | jq 'select(.state != \"ok\")'", "only what is missing"],
    ],
    run: async ({ values }, io) => {
      const list = checks(await machine());
      if (values.json) { for (const check of list) io.out(JSON.stringify(check)); }
      else io.out(doctorText(list));
      return list.some(({ state }) => state === "missing") ? 1 : 0;
    },
  });

export const doctor = doctorFor(inspect);
