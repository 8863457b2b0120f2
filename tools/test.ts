/**
 * `deno task test [group …]`: runs the tests group by group, each with only the permissions that it needs, and ends
 * with one line, `N passed, N failed` (the skipped ones are counted on the line before). Exit code 1 when anything failed.
 */

/** Tests that need the same things. */
interface Group {
  readonly name: string;
  /** Permissions of `deno test`. */
  readonly allow: readonly string[];
  /** Files run side by side, one for each of two cores: nothing in them counts on having the machine alone. */
  readonly parallel?: boolean;
  /** Type-check every file of the folder, those without a run-time test too. */
  readonly typesOnly?: boolean;
}

/** Order matters: what is cheap and basic fails first. */
const GROUPS: readonly Group[] = [
  { name: "types", allow: ["--allow-read"], typesOnly: true },
  {
    name: "pure",
    allow: [
      "--allow-read",
      "--allow-env",
      "--allow-sys",
      "--deny-ffi",
      "--deny-net",
      "--deny-write",
      "--deny-run",
    ],
  },
  { name: "files", allow: ["-A", "--deny-ffi", "--deny-net"] },
  { name: "native", allow: ["-A", "--deny-net"] },
  { name: "emulation", allow: ["-A", "--deny-net"], parallel: true },
  { name: "golden", allow: ["-A", "--deny-net"] },
  // The bench tests read /proc/stat, which Deno gives only to those that may do everything.
  { name: "run", allow: ["-A"] },
  { name: "cluster", allow: ["-A"] },
];

/** What came of some tests. */
export interface Count {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

// deno-lint-ignore no-control-regex
const COLOR = /\x1b\[[0-9;]*m/g;
const SUMMARY =
  /^(?:ok|FAILED) \| (\d+) passed(?: \([^)]*\))? \| (\d+) failed(?: \(\d+ steps?\))?(?: \| (\d+) ignored(?: \([^)]*\))?)?/;

/**
 * Counts from the output and the exit status of `deno test`. A process that ended without a summary (a crash, a type
 * error), or that failed without naming a test, is one failure: it must never look like success.
 */
export function countOf(output: string, success: boolean): Count {
  const line = output.replace(COLOR, "").split("\n").findLast((line) => SUMMARY.test(line));
  const match = line === undefined ? null : SUMMARY.exec(line);
  if (match === null) return { passed: 0, failed: 1, skipped: 0 };
  const [passed, failed, skipped] = [match[1], match[2], match[3]].map((n) => Number(n ?? 0)) as [
    number,
    number,
    number,
  ];
  return { passed, failed: success ? failed : Math.max(1, failed), skipped };
}

/** "3 passed, 0 failed", alone on its line; before it, when there are any, "1 skipped". */
export function total(counts: readonly Count[]): string {
  const sum = (key: keyof Count): number => counts.reduce((n, count) => n + count[key], 0);
  const skipped = sum("skipped");
  return `${skipped ? `${skipped} skipped\n` : ""}${sum("passed")} passed, ${sum("failed")} failed`;
}

const root = new URL("../", import.meta.url);

/** Runs `deno …args`, streams what it prints and returns it too. */
async function deno(args: readonly string[]): Promise<{ output: string; success: boolean }> {
  const child = new Deno.Command(Deno.execPath(), {
    args: [...args],
    cwd: root,
    env: { DENO_JOBS: "2" },
    stdout: "piped",
  }).spawn();
  let output = "";
  const decoder = new TextDecoder();
  for await (const chunk of child.stdout) {
    await Deno.stdout.write(chunk);
    output += decoder.decode(chunk, { stream: true });
  }
  return { output, success: (await child.status).success };
}

/** Files of a group's folder, deep, or none when there is no such folder. */
async function filesOf(group: string): Promise<string[]> {
  const files: string[] = [];
  const visit = async (folder: string): Promise<void> => {
    for await (const entry of Deno.readDir(new URL(`${folder}/`, root))) {
      if (entry.isDirectory) await visit(`${folder}/${entry.name}`);
      else if (entry.name.endsWith(".ts")) files.push(`${folder}/${entry.name}`);
    }
  };
  await visit(`tests/${group}`).catch((error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  return files.sort();
}

async function runGroup({ name, allow, parallel, typesOnly }: Group): Promise<Count[]> {
  const files = await filesOf(name);
  const tests = files.filter((file) => file.endsWith("_test.ts"));
  const counts: Count[] = [];
  if (typesOnly && files.length) {
    const { success } = await deno(["check", ...files]);
    counts.push({ passed: success ? files.length : 0, failed: success ? 0 : 1, skipped: 0 });
  }
  if (tests.length) {
    const args = ["test", "--no-prompt", ...parallel ? ["--parallel"] : [], ...allow, ...tests];
    const { output, success } = await deno(args);
    counts.push(countOf(output, success));
  }
  return counts;
}

async function main(wanted: readonly string[]): Promise<number> {
  const unknown = wanted.filter((name) => !GROUPS.some((group) => group.name === name));
  if (unknown.length) {
    console.error(
      `error: Cannot run tests: no group ${unknown.join(", ")}, choose from ${
        GROUPS.map((g) => g.name).join(", ")
      }`,
    );
    return 2;
  }
  const counts: Count[] = [];
  const needsLibrary = ["native", "emulation", "golden", "run", "cluster"];
  const groups = GROUPS.filter((group) => wanted.length === 0 || wanted.includes(group.name));
  if (groups.some((group) => needsLibrary.includes(group.name))) {
    const { success } = await deno(["task", "--quiet", "build"]);
    if (!success) counts.push({ passed: 0, failed: 1, skipped: 0 });
  }
  // Once, and not by every file that runs beside others.
  if (groups.some((group) => group.parallel)) await deno(["task", "--quiet", "build:cuda", "--emulation"]);
  for (const group of groups) {
    console.log(`\n── ${group.name} ${"─".repeat(60 - group.name.length)}`);
    const found = await runGroup(group);
    console.log(
      found.length ? `${group.name}: ${total(found).replace("\n", ", ")}` : `${group.name}: no tests`,
    );
    counts.push(...found);
  }
  console.log(`\n${total(counts)}`);
  return counts.some((count) => count.failed > 0) ? 1 : 0;
}

if (import.meta.main) Deno.exit(await main(Deno.args));
