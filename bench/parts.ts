/** Parts of a bench, each a process of its own with a time limit: one that fails or hangs takes no other with it. */

/** What a part says, a line of JSON each. */
export interface Line {
  readonly part: string;
  readonly what: string;
  readonly [key: string]: unknown;
}
export interface Outcome {
  readonly part: string;
  readonly seconds: number;
  readonly lines: readonly Line[];
  readonly failed?: string;
}
/** A program and what its environment is beside the usual: paths are chosen when the library is opened. */
export interface Part {
  readonly name: string;
  /** A program and its arguments; a script of Deno's with {@link script}. */
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
}

/** A script beside this one, with arguments. */
export const script = (name: string, ...args: readonly string[]): string[] => [
  Deno.execPath(),
  "run",
  "-A",
  "--no-check",
  new URL(name, import.meta.url).pathname,
  ...args,
];

/** What went wrong, without what Deno writes before it. */
const reasonIn = (stderr: string): string =>
  stderr.split("\n").find((l) => /error: |Error: |Cannot /i.test(l))?.replace(/^.*?(?=Cannot )/, "") ??
    "it ended early";

/** Runs a part; its lines are printed when it has ended. */
export async function runPart({ name, command, env = {} }: Part, limitSeconds: number): Promise<Outcome> {
  const start = performance.now(), timeout = new AbortController();
  const timer = setTimeout(() => timeout.abort(), limitSeconds * 1000), [program, ...args] = command;
  const { success, stdout, stderr } = await new Deno.Command(program!, {
    args,
    env: { NO_COLOR: "1", ...env },
    signal: timeout.signal,
  }).output();
  clearTimeout(timer);
  const lines = new TextDecoder().decode(stdout).trim().split("\n").filter((l) => l.startsWith("{"))
    .map((l): Line => ({ part: name, ...JSON.parse(l) }));
  for (const line of lines) console.log(JSON.stringify(line));
  const failed = timeout.signal.aborted
    ? `it took more than ${limitSeconds} s`
    : reasonIn(new TextDecoder().decode(stderr));
  return { part: name, seconds: (performance.now() - start) / 1000, lines, ...(!success && { failed }) };
}

/** Writes everything to a file and a line for every part to the terminal; ends the process with 1 when one failed. */
export async function finish(
  outcomes: readonly Outcome[],
  file: string,
  say: (o: Outcome) => string,
): Promise<never> {
  await Deno.mkdir(file.replace(/[^/]*$/, "") || ".", { recursive: true });
  await Deno.writeTextFile(file, JSON.stringify(outcomes, null, 1));
  const width = Math.max(...outcomes.map((o) => o.part.length));
  console.log("");
  for (const o of outcomes) {
    const text = o.failed === undefined ? say(o) : `FAILED: ${o.failed}`;
    console.log(`${o.part.padEnd(width)} ${o.seconds.toFixed(0).padStart(4)} s  ${text}`);
  }
  console.log(`\nwrote ${file}`);
  Deno.exit(outcomes.some((o) => o.failed !== undefined) ? 1 : 0);
}
