/**
 * Two versions of the CPU kernels side by side, in one process and in turn: those of a commit and those of the working tree.
 *
 *     deno run -A bench/gym.ts [--base COMMIT] [--only REGEX] [--threads 1] [--budget SECONDS] [--isa avx512|avx2|generic]
 *
 * Every case prints the shortest and the median time of both, what the trial reaches of the FMA peak and of bytes, and whether
 * all outputs have the same bits; the exit code is 1 where they have not. A kernel that the commit has not cannot be compared, but products of
 * the same rows are: joined here, one after the other there (qkv, gateUp, gated).
 */
import { join } from "node:path";
import { parseArgs } from "node:util";
import { cxx, FLAGS, INSTRUCTION_SETS } from "../ffi/build.ts";
import { digest } from "../ffi/objects.ts";

const { values: flags } = parseArgs({
  options: {
    base: { type: "string", default: "HEAD" },
    only: { type: "string", default: "" },
    threads: { type: "string", default: "1" },
    budget: { type: "string", default: "1" },
    isa: { type: "string", default: "avx512" },
  },
});
const root = new URL("..", import.meta.url).pathname, objects = join(root, "build", "gym");
const base = await Deno.makeTempDir({ prefix: "gym" });

async function run(command: string, ...args: string[]): Promise<void> {
  const { success, stderr } = await new Deno.Command(command, { args, cwd: root }).output();
  if (!success) {
    throw new Error(
      `Cannot compare kernels: ${command} ${args[0]} failed, ${new TextDecoder().decode(stderr)}`,
    );
  }
}

/** Everything that a source of a tree may include. */
function headers(tree: string): string {
  const folders = ["common", "cpu", "cpu/kernels"].map((folder) => join(tree, "cuda", folder));
  const files = folders.flatMap((folder) =>
    [...Deno.readDirSync(folder)].filter((entry) => entry.name.endsWith(".h")).map((entry) =>
      join(folder, entry.name)
    )
  );
  return digest(...files.sort().map((file) => Deno.readTextFileSync(file)));
}

interface Source {
  readonly tree: string;
  readonly path: string;
  readonly flags: readonly string[];
}

function kernels(tree: string, name: string): Source[] {
  const isa = INSTRUCTION_SETS[flags.isa]!, folder = "cuda/cpu/kernels";
  return [...Deno.readDirSync(join(tree, folder))].filter((entry) => entry.name.endsWith(".cpp")).map((
    entry,
  ) => ({ tree, path: `${folder}/${entry.name}`, flags: [...isa, `-DBATON_ISA=${name}`] }));
}

/** Compiles a source unless that has been done before; path of the object. */
async function compile({ tree, path, flags }: Source): Promise<string> {
  const all = [...FLAGS, ...flags], source = join(tree, path);
  const object = join(objects, `${digest(headers(tree), Deno.readTextFileSync(source), ...all)}.o`);
  if (!await Deno.stat(object).catch(() => null)) {
    await run(cxx(), ...all, "-c", source, "-o", `${object}.part`);
    await Deno.rename(`${object}.part`, object);
  }
  return object;
}

try {
  await Deno.mkdir(objects, { recursive: true });
  await run("git", "archive", "--output", join(base, "base.tar"), flags.base, "cuda");
  await run("tar", "xf", join(base, "base.tar"), "-C", base);
  const shared = [
    "cpu/pool.cpp",
    "common/clock.cpp",
    "common/group.cpp",
    "common/program.cpp",
    "dev/gym.cpp",
  ];
  const sources = [
    ...kernels(base, "base"),
    ...kernels(root, "trial"),
    ...shared.map((path) => ({ tree: root, path: `cuda/${path}`, flags: [] })),
  ];
  const made: string[] = [], work = sources.values();
  await Promise.all([0, 1].map(async () => {
    for (const source of work) made.push(await compile(source));
  }));
  const binary = join(base, "gym");
  await run(cxx(), ...made, "-lpthread", "-o", binary);
  const args = [flags.only, flags.threads, flags.budget];
  const { code } = await new Deno.Command(binary, { args, stdout: "inherit", stderr: "inherit" }).spawn()
    .status;
  Deno.exitCode = code;
} finally {
  await Deno.remove(base, { recursive: true });
}
