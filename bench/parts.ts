/** Parts of a bench or a check, each a process of its own with a time limit: one that fails or hangs takes no other with it. */

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
  /** What takes longer is ended. */
  readonly seconds: number;
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
  stderr.split("\n").find((l) => /error: |Error: |Cannot /i.test(l))?.replace(
    /^.*?(?=Cannot )|^error: /,
    "",
  ) ??
    "it ended early";

/** From being asked to end to being ended. */
const GRACE_SECONDS = 5;

/**
 * Runs a part; its lines are printed when it has ended.
 *
 * @param most seconds that are left for it
 */
export async function runPart({ name, command, env = {}, seconds }: Part, most = Infinity): Promise<Outcome> {
  const start = performance.now(), limitSeconds = Math.min(seconds, most), [program, ...args] = command;
  const child = new Deno.Command(program!, {
    args,
    env: { NO_COLOR: "1", ...env },
    stdout: "piped",
    stderr: "piped",
  }).spawn();
  let late = false;
  const end = (signal: Deno.Signal) => {
    late = true;
    child.kill(signal);
  };
  const timers = ([["SIGTERM", 0], ["SIGKILL", GRACE_SECONDS]] as const).map(([signal, later]) =>
    setTimeout(() => end(signal), (limitSeconds + later) * 1000)
  );
  const { success, stdout, stderr } = await child.output();
  timers.forEach(clearTimeout);
  const lines = new TextDecoder().decode(stdout).trim().split("\n").filter((l) => l.startsWith("{"))
    .map((l): Line => ({ part: name, ...JSON.parse(l) }));
  for (const line of lines) console.log(JSON.stringify(line));
  const failed = late
    ? `it took more than ${Math.round(limitSeconds)} s`
    : reasonIn(new TextDecoder().decode(stderr));
  const took = (performance.now() - start) / 1000;
  return { part: name, seconds: took, lines, ...((late || !success) && { failed }) };
}

/** The line of a part that says most: the last that it marks so, else the last. */
export const summary = ({ lines }: Pick<Outcome, "lines">): string =>
  (lines.findLast((l) => l["best"]) ?? lines.at(-1))?.what ?? "it said nothing";

/** The peer's part beside one of ours. */
export const peerOf = (name: string): string => `  transformers, ${name}`;

/** Tokens per second of a part, where it says so. */
const rate = (o: Outcome | undefined): number | undefined =>
  o?.lines.at(-1)?.["tokensPerSecond"] as number | undefined;

/** The same, with how much faster a part of the bench is than the peer's. */
export function benchText(o: Outcome, all: readonly Outcome[]): string {
  const own = rate(o), theirs = rate(all.find(({ part }) => part === peerOf(o.part)));
  return `${summary(o)}${own && theirs ? `, ${(own / theirs).toPrecision(3)} × transformers` : ""}`;
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
